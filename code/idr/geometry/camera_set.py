"""The cameras of a scene in one frame, in another frame, and with known errors.

B cameras. Poses are camera-to-world, (4, 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CameraSet:
    """B cameras without lens distortion, OpenCV axes (x right, y down, z forward).

    Attributes:
        names: (B) file names of their images, in natural order.
        intrinsics: (B, 3, 3) K in pixels; pixel (0, 0) is the center of the first one.
        poses: (B, 4, 4) camera-to-world in the set's frame.
        img_res: Height and width.
        scale_mat: (4, 4) similarity from the unit sphere, which holds the object, to the set's frame.
        held_out: (B) whether a view is held out from training.
    """

    names: tuple[str, ...]
    intrinsics: NDArray[np.float64]
    poses: NDArray[np.float64]
    img_res: tuple[int, int]
    scale_mat: NDArray[np.float64]
    held_out: tuple[bool, ...]

    @property
    def projections(self) -> NDArray[np.float64]:
        """Projection matrices, (B, 3, 4), from the set's frame to pixels."""
        return self.intrinsics @ np.linalg.inv(self.poses)[:, :3]

    def in_unit_sphere(self) -> CameraSet:
        """Returns the same cameras in the frame of the unit sphere."""
        poses = poses_in_frame(self.poses, np.linalg.inv(self.scale_mat))
        return replace(self, poses=poses, scale_mat=np.eye(4))


def poses_in_frame(poses: NDArray[np.floating], matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Transforms (B, 4, 4) poses by a (4, 4) similarity, of positive or negative scale, to another frame."""
    moved = np.asarray(matrix, dtype=np.float64) @ np.asarray(poses, dtype=np.float64)
    moved[:, :3, :3] /= np.cbrt(np.linalg.det(np.asarray(matrix, dtype=np.float64)[:3, :3]))
    return moved


def disturb_poses(
    poses: NDArray[np.float64], degrees: float, distance: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Returns rough initial poses, (B, 4, 4), for the training of cameras.

    Args:
        poses: (B, 4, 4) exact poses.
        degrees: Mean angle of the rotations about random axes; each is 0.5 to 1.5 times as large.
        distance: Mean displacement of the centers in random directions, likewise; unit-sphere units.
        generator: Random generator.
    """
    disturbed = poses.copy()
    for pose in disturbed:
        axis, shift = generator.standard_normal((2, 3))
        angle = np.radians(degrees) * generator.uniform(0.5, 1.5)
        cross = np.cross(np.eye(3), axis / np.linalg.norm(axis))  # the matrix of v -> axis x v
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
        pose[:3, :3] = turn @ pose[:3, :3]
        pose[:3, 3] += distance * generator.uniform(0.5, 1.5) * shift / np.linalg.norm(shift)
    return disturbed
