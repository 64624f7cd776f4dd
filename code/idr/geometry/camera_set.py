"""The cameras of a scene in one frame."""

from __future__ import annotations

from dataclasses import dataclass

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
        return CameraSet(
            self.names, self.intrinsics, poses, self.img_res, np.eye(4, dtype=np.float64), self.held_out
        )


def poses_in_frame(poses: NDArray[np.floating], matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Transforms poses to another frame.

    Args:
        poses: (B, 4, 4) camera-to-world.
        matrix: (4, 4) similarity from their frame to the other, of positive or negative scale.

    Returns:
        (B, 4, 4) poses in that frame; their rotations have no scale.
    """
    moved = np.asarray(matrix, dtype=np.float64) @ np.asarray(poses, dtype=np.float64)
    moved[:, :3, :3] /= np.cbrt(np.linalg.det(np.asarray(matrix, dtype=np.float64)[:3, :3]))
    return moved
