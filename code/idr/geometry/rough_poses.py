"""Rough poses with known errors, made from exact ones, as initial cameras.

B cameras. Poses are camera-to-world, (4, 4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def disturb_poses(poses: Array, degrees: float, distance: float, generator: np.random.Generator) -> Array:
    """Returns rough initial poses for the training of cameras.

    Args:
        poses: (B, 4, 4) exact poses.
        degrees: Mean angle of the rotations about random axes; each is 0.5 to 1.5 times as large.
        distance: Mean displacement of the centers in random directions, likewise; unit-sphere units.
        generator: Random generator.

    Returns:
        (B, 4, 4) disturbed poses.
    """
    disturbed = poses.copy()
    for pose in disturbed:
        axis, shift = generator.standard_normal((2, 3))
        angle = np.radians(degrees) * generator.uniform(0.5, 1.5)
        pose[:3, :3] = _rotation(axis / np.linalg.norm(axis), angle) @ pose[:3, :3]
        pose[:3, 3] += distance * generator.uniform(0.5, 1.5) * shift / np.linalg.norm(shift)
    return disturbed


def _rotation(axis: Array, angle: float) -> Array:
    """Returns the (3, 3) rotation by an angle about a unit axis (Rodrigues)."""
    cross = np.cross(np.eye(3), axis)  # rows e_i x axis: the matrix of v -> axis x v
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
