"""Marching cubes on one array of values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

_ZERO_NUDGE = 1e-4
"""Smallest |value|, in grid spacings. A sample of exactly 0 puts several vertices at one position, which
leaves holes. This separates them and moves the surface by at most 1e-4 of a cell."""


def nudge_zeros(volume: NDArray[np.float32], spacing: float) -> None:
    """Moves values close to 0 away from it, in place; 0 itself becomes positive.

    Args:
        volume: (X, Y, Z) values with gradient norm about 1.
        spacing: Distance between neighboring samples.
    """
    nudge = np.float32(_ZERO_NUDGE * spacing)
    for plane in volume:  # by planes, to avoid a second array of the volume's size
        near_zero = np.abs(plane) < nudge
        plane[near_zero] = np.where(plane[near_zero] < 0, -nudge, nudge)


def triangulate(volume: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns the zero set of values of both signs.

    Args:
        volume: (X, Y, Z) nonzero values, negative inside.

    Returns:
        (V, 3) vertices in array indices, and (F, 3) faces, counter-clockwise seen from outside.
    """
    # "descent" gives outward faces for values that grow outward; tests check the sign of the volume.
    vertices, faces, _, _ = marching_cubes(volume, level=0.0, gradient_direction="descent")
    return vertices, faces
