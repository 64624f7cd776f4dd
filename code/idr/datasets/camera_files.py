"""Reads camera files such as ``cameras.npz``.

B images. Frames: world (of the calibration) and unit sphere; x_world = scale_mat x_unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import decompose_projection, project_points


@dataclass(frozen=True)
class CameraFile:
    """The matrices of one npz.

    Attributes:
        path: The file.
        world_mats: (B, 4, 4) projections from world coordinates to pixels.
        scale_mats: (B, 4, 4) similarities from unit-sphere to world coordinates.
    """

    path: Path
    world_mats: NDArray[np.float64]
    scale_mats: NDArray[np.float64]

    def decompose(self, scaled: bool = True) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns intrinsics and poses, (B, 4, 4) each, in unit-sphere (`scaled`) or world coordinates."""
        projections = self.world_mats @ self.scale_mats if scaled else self.world_mats
        intrinsics, poses = zip(*(decompose_projection(matrix[:3]) for matrix in projections), strict=True)
        return np.stack(intrinsics), np.stack(poses)


def read_cameras(path: Path, num_images: int) -> CameraFile:
    """Reads and checks the cameras of a scene.

    Args:
        path: The npz, with ``world_mat_i`` and ``scale_mat_i`` for image i; other keys are ignored.
        num_images: B, the expected number of cameras.

    Raises:
        MissingInputError: No such file.
        InputError: Unreadable; matrices missing, too many, of a wrong shape, not finite or singular; or a
            camera with the unit sphere's center behind it.
    """
    if not path.is_file():
        others = ", ".join(sorted(other.name for other in path.parent.glob("*.npz"))) or "none"
        raise MissingInputError(
            f"no camera file {path}; npz files there: {others}; expected one with world_mat_i and scale_mat_i"
        )
    arrays = read_arrays(path)
    stacks = [_stack(arrays, prefix, num_images, path) for prefix in ("world_mat", "scale_mat")]
    cameras = CameraFile(path, *stacks)
    _check_cameras(cameras)
    return cameras


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Reads the ``world_mat_i``, ``scale_mat_i`` and ``camera_mat_i`` of an npz, without loading pickles.

    Numbers may be padded with zeros in the file (``world_mat_00``); the keys returned are not.

    Raises:
        InputError: Not a readable npz, pickled arrays, or two different matrices of one number.
    """
    arrays: dict[str, NDArray] = {}
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array")
        with archive:
            for name in archive.files:
                key = _matrix_key(name)
                if key is None:
                    continue
                array = np.asarray(archive[name])
                first = arrays.setdefault(key, array)
                if first is not array and not np.array_equal(first, array):
                    raise InputError(f"{path} has two different matrices {key}, one as {name}; remove one")
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise arbitrary exceptions on broken files
        if "Object arrays" in str(error):
            raise InputError(f"{path} has pickled object arrays, not numbers; {_UNPICKLE}") from error
        raise InputError(
            f"{path} cannot be read as an npz ({error}); it may be truncated or corrupted: download it again"
        ) from error
    return arrays


_UNPICKLE = (
    "if you trust the file, save its matrices as float64: a = np.load(path, allow_pickle=True); "
    "np.savez(path, **{k: np.asarray(a[k].tolist(), float) for k in a.files})"
)


def _matrix_key(name: str) -> str | None:
    """``world_mat_7`` for ``world_mat_07``, likewise for other matrices; None for other names."""
    found = re.fullmatch(r"(world_mat|scale_mat|camera_mat)_([0-9]+)", name)
    return f"{found[1]}_{int(found[2])}" if found else None


def lacks_intrinsics(intrinsics: NDArray[np.floating]) -> bool:
    """Whether matrices K, (B, 3, 3) or (B, 4, 4), are the identity or for normalized pixels, in [-1, 1]."""
    return bool(np.abs(intrinsics[:, :2, 2]).max() < 2.0 and np.abs(intrinsics[:, :2, :2]).max() < 20.0)


def check_intrinsics(path: Path, intrinsics: NDArray[np.floating]) -> None:
    """Raises `InputError` if the projections of a file lack intrinsics, see `lacks_intrinsics`."""
    if lacks_intrinsics(intrinsics):
        remedy = "write world_mat_i = K [R | t] with K in pixels"
        if any(key.startswith("camera_mat") for key in read_arrays(path)):
            remedy = "import the folder with import_scene.py, which reads camera_mat_i (DVR, UNISURF)"
        raise InputError(f"{path}: world_mat_i holds no intrinsics (K is about the identity); {remedy}")


def _stack(arrays: dict[str, NDArray], prefix: str, num_images: int, path: Path) -> NDArray[np.float64]:
    """The (B, 4, 4) matrices of one kind, after checking number, shape and values."""
    present = {int(key.rpartition("_")[2]) for key in arrays if key.startswith(prefix)}
    missing = [i for i in range(num_images) if i not in present]
    extra = sorted(i for i in present if i >= num_images)
    if missing or extra:
        problem = f"lacks {prefix}_{missing[0]}" if missing else f"also has {prefix}_{extra[0]}"
        remedy = "remove the images and masks without camera"
        if prefix == "scale_mat":
            remedy = "run preprocess_cameras.py"
        elif extra:
            remedy = "import the folder with import_scene.py, which leaves out cameras without image"
        raise InputError(
            f"{path} {problem}: {len(present)} {prefix} matrices for {num_images} images; expected one "
            f"camera per image, numbered from 0 in natural name order: {remedy}"
        )
    matrices = []
    for i in range(num_images):
        matrix = arrays[f"{prefix}_{i}"]
        if matrix.shape == (3, 4):
            matrix = np.vstack((matrix, [0, 0, 0, 1]))
        if matrix.shape != (4, 4) or matrix.dtype.kind not in "fiu":
            raise InputError(
                f"{path}: {prefix}_{i} has shape {matrix.shape} and type {matrix.dtype}; expected 4 x 4 "
                "real numbers"
            )
        matrix = matrix.astype(np.float64)
        if not np.isfinite(matrix).all():
            raise InputError(f"{path}: {prefix}_{i} has non-finite values; calibrate this view again")
        matrices.append(matrix)
    return np.stack(matrices)


def _check_cameras(cameras: CameraFile) -> None:
    """Checks that scale matrices are similarities, and that cameras have the unit sphere in front of them."""
    for i, scale_mat in enumerate(cameras.scale_mats):
        gram = scale_mat[:3, :3].T @ scale_mat[:3, :3]
        size = np.trace(gram) / 3
        is_similar = size > 0 and np.abs(gram - size * np.eye(3)).max() <= 1e-3 * size
        if not is_similar or np.linalg.det(scale_mat[:3, :3]) < 0:
            raise InputError(
                f"{cameras.path}: scale_mat_{i} is not a similarity; expected uniform positive scale, "
                "rotation and translation: run preprocess_cameras.py"
            )
    for i, projection in enumerate(cameras.world_mats @ cameras.scale_mats):
        try:
            decompose_projection(projection[:3])
        except ValueError as error:
            raise InputError(f"{cameras.path}: world_mat_{i}: {error}; calibrate this view again") from error
        depth = project_points(np.zeros((1, 3)), projection[:3])[1][0]
        if depth <= 0:
            raise InputError(
                f"{cameras.path}: world_mat_{i} is mirrored or looks away: the unit sphere's center lies "
                f"behind the camera (depth {depth:.3g}); expected OpenCV axes (x right, y down, z forward) "
                "and the object in front"
            )
