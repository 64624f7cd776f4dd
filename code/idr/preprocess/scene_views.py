"""Reads masks and projections of a scene folder, and writes its `scale_mat`s.

B views, H rows, W columns. Projections map the world to pixels (column, row); integers are pixel centers.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from idr.datasets.camera_files import read_arrays
from idr.datasets.images import load_mask
from idr.datasets.masks import scene_masks
from idr.errors import InputError, MissingInputError
from idr.files import write_atomic
from idr.geometry.cameras import decompose_projection
from idr.places import shipped_name
from idr.replacing import ZIP_MARK, is_own_zip

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
EXACT_CAMERAS = "cameras.npz"


def camera_file_of(use_linear_init: bool) -> str:
    """The camera file that ``--use_linear_init`` chooses."""
    return "cameras_linear_init.npz" if use_linear_init else EXACT_CAMERAS


@dataclass(frozen=True)
class SceneViews:
    """Masks and cameras of one scene, in natural name order.

    Attributes:
        names: B file names of the masks.
        masks: B arrays (H, W) of bool, True inside the object; none is empty or full.
        intrinsics: (B, 3, 3) with K[2, 2] = 1.
        poses: (B, 4, 4) camera-to-world, world frame and unit.
        projections: (B, 3, 4) = K [R | t], world to pixels; the third row yields the depth.
    """

    names: tuple[str, ...]
    masks: tuple[Mask, ...]
    intrinsics: Array
    poses: Array
    projections: Array

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def centers(self) -> Array:
        """(B, 3) camera centers in the world."""
        return self.poses[:, :3, 3]


def make_views(
    names: tuple[str, ...], masks: tuple[Mask, ...], world_mats: NDArray[np.floating]
) -> SceneViews:
    """Checks masks, (H, W), and projections, (B, 3, 4) or (B, 4, 4) of either sign and any scale.

    Raises:
        InputError: A matrix is not finite or has no camera center, or a mask is empty or full.
    """
    intrinsics, poses, projections = [], [], []
    for k, matrix in enumerate(np.asarray(world_mats, dtype=np.float64)):
        if not np.isfinite(matrix).all():
            raise InputError(f"world_mat_{k} ({names[k]}) has non-finite values; export the cameras again")
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
            raise InputError(
                f"mask {k} ({names[k]}) marks {'every' if mask.all() else 'no'} pixel as object; expected "
                "the object white on black: replace this mask, remove the view, or compute all masks by an "
                "import with --masks auto"
            )
    return SceneViews(names, masks, np.array(intrinsics), np.array(poses), np.array(projections))


def load_views(scene_dir: Path, camera_file: str = EXACT_CAMERAS) -> SceneViews:
    """Reads masks and cameras of a folder with `mask/` and an npz of `world_mat_<i>`.

    Raises:
        MissingInputError: The folder, its masks or the camera file are missing.
        InputError: Counts differ, or a mask or matrix is invalid.
    """
    if not scene_dir.is_dir():
        raise MissingInputError(
            f"no scene folder {scene_dir}; expected a folder with mask/ and {camera_file}"
        )
    masks = scene_masks(scene_dir)
    matrices = read_world_mats(scene_dir / camera_file)
    if len(masks) != len(matrices):
        raise InputError(
            f"{scene_dir}: {len(masks)} masks but {len(matrices)} world_mats in {camera_file}; expected one "
            "of each per view, in the same natural name order"
        )
    return make_views(tuple(path.name for path in masks), tuple(map(load_mask, masks)), matrices)


def read_world_mats(path: Path) -> Array:
    """Reads `world_mat_0`, `world_mat_1`, ... of a camera file, (B, 3, 4), without any fourth rows.

    Raises:
        MissingInputError: No such file.
        InputError: Not a readable npz, no such matrices, gaps in their numbers, or another shape.
    """
    if not path.is_file():
        others = ", ".join(sorted(p.name for p in path.parent.glob("*.npz"))) or "none"
        raise MissingInputError(
            f"no camera file {path}; npz files there: {others}; expected one world_mat_<i> per image (see "
            f"{shipped_name('DATA_CONVENTION.md')})"
        )
    arrays = read_arrays(path)
    keys = {int(key.removeprefix("world_mat_")): key for key in arrays if key.startswith("world_mat")}
    try:
        found = {k: np.asarray(arrays[keys[k]], dtype=np.float64) for k in sorted(keys)}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: world_mat matrices are not numbers ({error}); export them again"
        ) from error
    if not found:
        raise InputError(f"{path} has no world_mat_0, world_mat_1, ...; expected one world_mat per image")
    missing = next((k for k in range(len(found)) if k not in found), None)
    if missing is not None:
        raise InputError(f"{path} has world_mat_{max(found)} but not world_mat_{missing}; add it")
    for k, matrix in found.items():
        if matrix.shape not in ((3, 4), (4, 4)):
            raise InputError(f"{path}: world_mat_{k} has shape {matrix.shape}; expected (4, 4)")
    return np.stack([matrix[:3] for matrix in found.values()])


def sphere_matrix(center: NDArray[np.floating], radius: float) -> Array:
    """(4, 4) similarity, unit sphere to world, of the sphere with a center (3,) and a radius in the world."""
    scale_mat = np.diag([radius, radius, radius, 1.0])
    scale_mat[:3, 3] = center
    return scale_mat


def radius_of(scale_mat: Array) -> float:
    """Radius in world units of the sphere with this (4, 4) similarity, unit sphere to world."""
    return float(np.cbrt(np.abs(np.linalg.det(scale_mat[:3, :3]))))


def backup_path(path: Path) -> Path:
    """The backup of a camera file's first original: `cameras_backup.npz` for `cameras.npz`."""
    return path.with_name(f"{path.stem}_backup{path.suffix}")


def write_scale_mats(path: Path, center: NDArray[np.floating], radius: float) -> Path | None:
    """Writes `sphere_matrix` to a camera file as every view's `scale_mat_<i>`.

    Existing `scale_mat_inv_<i>` become its inverse; all other entries are kept byte for byte. A file that
    this function did not write is kept as `backup_path`, or as `..._backup_2.npz` and so on if that holds
    another one. The file is replaced atomically.
    Differs: the published code wrote `<name>_new.npz`, to be renamed by hand.

    Returns:
        The backup that this call made, or None.

    Raises:
        InputError: The file is not a readable npz of matrices.
        OutputError: Writing failed; the file is unchanged.
    """
    count, scale_mat = len(read_world_mats(path)), sphere_matrix(center, radius)
    before = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(before)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        compression = archive.infolist()[0].compress_type
    present = _scale_mats(members, "")
    numbers = {int(name[len("scale_mat_") : -len(".npy")]) for name in present}
    replaced = {f"scale_mat_{k}.npy" for k in range(count) if k not in numbers} | set(present)
    members |= dict.fromkeys(sorted(replaced), _npy_bytes(scale_mat))
    members |= dict.fromkeys(_scale_mats(members, "inv_"), _npy_bytes(np.linalg.inv(scale_mat)))

    backup = None if is_own_zip(path) else _new_backup(path, before)
    if backup is not None:
        write_atomic(backup, lambda file: file.write(before))
    write_atomic(path, lambda file: _write_npz(file, members, compression))
    return backup


def _new_backup(path: Path, content: bytes) -> Path | None:
    """Returns the first free name for a backup; None if there is one of this content."""
    first = backup_path(path)
    for number in itertools.count(1):
        backup = first if number == 1 else first.with_stem(f"{first.stem}_{number}")
        if not os.path.lexists(backup):
            return backup
        if backup.is_file() and backup.read_bytes() == content:
            break
    return None


def _scale_mats(members: Mapping[str, bytes], kind: str) -> list[str]:
    return [name for name in members if re.fullmatch(rf"scale_mat_{kind}\d+\.npy", name)]


def _npy_bytes(array: NDArray[np.floating]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write_npz(file: BinaryIO, members: Mapping[str, bytes], compression: int) -> None:
    """Writes the members with a fixed date, for reproducible bytes."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.comment = ZIP_MARK
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
