"""Reads sparse points of a scene, (N, 3), from PLY, NumPy and text files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from idr.datasets.points import real_numbers
from idr.errors import InputError, MissingInputError
from idr.importers.source import Array

ENDINGS = (".ply", ".npz", ".npy", ".txt", ".xyz")
NPZ_KEYS = ("points_world", "points", "xyz")
MIN_POINTS = 10


def read_points(path: Path) -> Array:
    """Reads points in the world frame of the cameras, (N, 3) with N >= `MIN_POINTS`.

    The file is a PLY; an npz with `points_world`, `points` or `xyz`; an npy; or text whose lines begin with
    x y z.

    Raises:
        MissingInputError: No such file.
        InputError: Unreadable, too few points, or non-finite values.
    """
    if not path.is_file():
        raise MissingInputError(f"no point file {path}; expected one ending in {', '.join(ENDINGS)}")
    try:
        points = real_numbers(_read(path))
    except InputError:
        raise
    except Exception as error:  # readers raise arbitrary exceptions on broken files
        raise InputError(f"{path} cannot be read as points ({error}); export it again") from error
    if points.ndim != 2 or points.shape[1] < 3 or len(points) < MIN_POINTS:
        raise InputError(
            f"{path} has shape {points.shape}; expected {MIN_POINTS} or more points with x, y, z"
        )
    points = points[:, :3]
    if not np.isfinite(points).all():
        raise InputError(f"{path} has points with non-finite coordinates; remove them")
    return points


def _read(path: Path) -> np.ndarray:
    ending = path.suffix.lower()
    if ending == ".ply":
        cloud: Any = trimesh.load(path, process=False)
        return np.asarray(cloud.vertices)
    if ending == ".npy":
        return np.load(path, allow_pickle=False)
    if ending == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            for key in NPZ_KEYS:
                if key in arrays.files:
                    return arrays[key]
            raise InputError(
                f"{path} has the arrays {', '.join(arrays.files)}; expected one of {', '.join(NPZ_KEYS)}"
            )
    if ending in (".txt", ".xyz"):
        rows = [line.split()[:3] for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
        return np.array(rows, dtype=np.float64)
    raise InputError(f"{path}: expected a point file ending in {', '.join(ENDINGS)}")
