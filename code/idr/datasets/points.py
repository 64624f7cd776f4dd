"""Sparse points of a scene, triangulated from its photographs: ``points.npz``.

N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError, MissingInputError

POINTS_FILE = "points.npz"
HELD_OUT_EVERY = 10
"""One point in so many is kept out of training, for scores."""


@dataclass(frozen=True)
class ScenePoints:
    """Sparse points on the surface; some may be wrong.

    Attributes:
        points: (N, 3) in the world.
        held_out: (N,) points that training does not use.
    """

    points: NDArray[np.float64]
    held_out: NDArray[np.bool_]


def held_out_points(num_points: int) -> NDArray[np.bool_]:
    """Returns a tenth of the points at random, the same for the same number."""
    return np.random.default_rng(0).permutation(num_points) < -(-num_points // HELD_OUT_EVERY)


def real_numbers(values: NDArray) -> NDArray[np.float64]:
    """Returns an array as float64; a `ValueError` for complex numbers, texts and the like."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"values of type {values.dtype}")
    return values.astype(np.float64)


def read_points(path: Path) -> ScenePoints:
    """Reads ``points_world`` (N, 3) of an npz file.

    Raises:
        MissingInputError: There is no such file.
        InputError: It holds no points, or some are not finite.
    """
    if not path.is_file():
        raise MissingInputError(
            f"no points {path}; write them with preprocess/triangulate_points.py, or leave out what asks for "
            "them, the block loss.sparse_points or --points"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            points = real_numbers(archive["points_world"])
    except Exception as error:  # zipfile, zlib and numpy raise arbitrary exceptions on broken files
        raise InputError(f"{path}: expected an npz file with points_world (N, 3): {error}") from error
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise InputError(
            f"{path}: points_world has shape {points.shape}; expected (N, 3) finite numbers, N of 1 or more"
        )
    return ScenePoints(points, held_out_points(len(points)))
