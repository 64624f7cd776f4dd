"""What the preprocessing reads and writes of a scene folder: masks, projections, `scale_mat`s.

B views, H rows, W columns. Projections map world points to pixels (column, row) without a half-pixel shift.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.datasets.camera_files import read_arrays
from idr.datasets.images import list_images, load_mask
from idr.errors import InputError, MissingInputError
from idr.files import write_atomic
from idr.geometry.cameras import decompose_projection

EXACT_CAMERAS = "cameras.npz"
NOISY_CAMERAS = "cameras_linear_init.npz"


@dataclass(frozen=True)
class SceneViews:
    """Masks and cameras of one scene, in natural name order.

    Attributes:
        names: B file names of the masks.
        masks: B arrays (H, W) of bool, True inside the object, none of them empty or full.
        intrinsics: (B, 3, 3) with K[2, 2] = 1.
        poses: (B, 4, 4) camera-to-world, world frame and unit.
        projections: (B, 3, 4) = K [R | t], world points to pixels, third row giving the depth.
    """

    names: tuple[str, ...]
    masks: tuple[NDArray[np.bool_], ...]
    intrinsics: NDArray[np.float64]
    poses: NDArray[np.float64]
    projections: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def centers(self) -> NDArray[np.float64]:
        """(B, 3) camera centers in the world."""
        return self.poses[:, :3, 3]


def make_views(
    names: tuple[str, ...], masks: tuple[NDArray[np.bool_], ...], world_mats: NDArray[np.floating]
) -> SceneViews:
    """Checks masks and projection matrices and puts them together.

    Args:
        names: B names, for messages.
        masks: B arrays (H, W) of bool.
        world_mats: (B, 3, 4) or (B, 4, 4) projections, each of either sign and any scale.

    Returns:
        The views.

    Raises:
        InputError: A matrix is not finite or has no camera center, or a mask is empty or full.
    """
    intrinsics, poses, projections = [], [], []
    for k, matrix in enumerate(np.asarray(world_mats, dtype=np.float64)):
        if not np.isfinite(matrix).all():
            raise InputError(
                f"world_mat_{k} ({names[k]}) holds values that are not finite; export the cameras again"
            )
        try:
            camera, pose = decompose_projection(matrix[:3])
        except ValueError as error:
            raise InputError(f"world_mat_{k} ({names[k]}): {error}; export the cameras again") from error
        world_to_camera = np.linalg.inv(pose)
        intrinsics.append(camera[:3, :3])
        poses.append(pose)
        projections.append(camera[:3, :3] @ world_to_camera[:3])
    for k, mask in enumerate(masks):
        if mask.all() or not mask.any():
            what, has = ("every", "no outline") if mask.all() else ("no", "nothing to carve with")
            raise InputError(
                f"mask {k} ({names[k]}) marks {what} pixel as object, so it has {has}; "
                "expected the object white on black: replace this mask, or remove the view"
            )
    return SceneViews(names, masks, np.array(intrinsics), np.array(poses), np.array(projections))


def load_views(scene_dir: Path, camera_file: str = EXACT_CAMERAS) -> SceneViews:
    """Reads masks and cameras of a scene folder.

    Args:
        scene_dir: Folder that holds `mask/` and the camera file.
        camera_file: Name of the npz with the `world_mat_<i>`.

    Returns:
        The views.

    Raises:
        MissingInputError: The folder, its masks or the camera file are not there.
        InputError: Counts differ, or a mask or matrix is unusable.
    """
    if not scene_dir.is_dir():
        raise MissingInputError(
            f"no scene folder {scene_dir}; expected a folder with mask/ and {camera_file}"
        )
    masks = list_images(scene_dir / "mask")
    matrices = read_matrices(scene_dir / camera_file, "world_mat")
    if len(masks) != len(matrices):
        raise InputError(
            f"{scene_dir}: {len(masks)} masks but {len(matrices)} world_mats in {camera_file}; "
            "each view needs one mask and one camera, paired in natural name order"
        )
    names = tuple(path.name for path in masks)
    return make_views(
        names, tuple(load_mask(path) for path in masks), np.stack(list(matrices.values()))[:, :3]
    )


def read_matrices(path: Path, prefix: str) -> dict[int, NDArray[np.float64]]:
    """Reads the matrices `<prefix>_0`, `<prefix>_1`, ... of a camera file.

    Args:
        path: The npz.
        prefix: `world_mat` or `scale_mat`.

    Returns:
        (4, 4) matrices by number, in order from 0; a (3, 4) one is completed with (0, 0, 0, 1).

    Raises:
        MissingInputError: No such file.
        InputError: Not a readable npz, no such matrices, a gap in their numbers, or another shape.
    """
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.npz"))
        raise MissingInputError(
            f"no camera file {path}; npz files there: {', '.join(beside) if beside else 'none'}. It holds "
            "one world_mat_<i> for each image (see DATA_CONVENTION.md)"
        )
    arrays = read_arrays(path)
    names = {int(m[1]): m[0] for m in (re.fullmatch(prefix + r"_(\d+)", key) for key in arrays) if m}
    try:
        found = {k: np.asarray(arrays[names[k]], dtype=np.float64) for k in sorted(names)}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {prefix} matrices that are no numbers ({error}); export them again"
        ) from error
    if not found:
        raise InputError(f"{path} holds no {prefix}_0, {prefix}_1, ...; expected one {prefix} for each image")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise InputError(
            f"{path}: {prefix}_{missing[0]} is missing though {prefix}_{max(found)} is there; add it"
        )
    for k, matrix in found.items():
        if matrix.shape not in ((3, 4), (4, 4)):
            raise InputError(f"{path}: {prefix}_{k} has shape {matrix.shape}; expected (4, 4)")
        if matrix.shape == (3, 4):
            found[k] = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    return found


def backup_path(path: Path) -> Path:
    """Returns where the first state of a camera file is kept: `cameras_backup.npz` for `cameras.npz`."""
    return path.with_name(f"{path.stem}_backup{path.suffix}")


def write_scale_mats(path: Path, center: NDArray[np.floating], radius: float) -> bool:
    """Puts one similarity, unit sphere to world, into a camera file as every view's `scale_mat_<i>`.

    All other entries are kept byte for byte, but `scale_mat_inv_<i>`, where there are any, become the
    inverses. The file as it was before the first call stays beside it, see `backup_path`; later calls
    leave that copy alone. The file is replaced in one step.
    Differs: the published code wrote `<name>_new.npz`, which nothing reads until it is renamed.

    Args:
        path: The npz with the `world_mat_<i>`.
        center: (3,) center of the sphere in the world.
        radius: Radius of the sphere in world units, positive.

    Returns:
        True if this call made the backup, False if there was one.

    Raises:
        InputError: The file is no readable npz of matrices.
        OutputError: The system refuses to write; the file is unchanged.
    """
    count = len(read_matrices(path, "world_mat"))
    scale_mat = np.diag([radius, radius, radius, 1.0])
    scale_mat[:3, 3] = center
    before = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(before)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        compression = archive.infolist()[0].compress_type
    replaced = {f"scale_mat_{k}.npy" for k in range(count)} | {m for m in members if _is_scale_mat(m, "")}
    members.update(dict.fromkeys(sorted(replaced), _npy_bytes(scale_mat)))
    inverses = [m for m in members if _is_scale_mat(m, "inv_")]
    members.update(dict.fromkeys(inverses, _npy_bytes(np.linalg.inv(scale_mat))))

    backup = backup_path(path)
    makes_backup = not backup.exists()
    if makes_backup:
        write_atomic(backup, lambda file: file.write(before))
    content = _zip_bytes(members, compression)
    write_atomic(path, lambda file: file.write(content))
    return makes_backup


def _is_scale_mat(member: str, kind: str) -> bool:
    return re.fullmatch(rf"scale_mat_{kind}\d+\.npy", member) is not None


def _npy_bytes(array: NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _zip_bytes(members: Mapping[str, bytes], compression: int) -> bytes:
    """An npz of the members, with a fixed date so that the same content gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()
