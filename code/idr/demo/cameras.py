"""The built-in scene's cameras, on a full sphere around the object.

B views. numpy in float64. Poses are camera-to-world in the unit-sphere frame with OpenCV axes (x right, y
down, z forward); `UNIT_TO_WORLD` maps this frame to the world.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNIT_TO_WORLD = np.diag([120.0, 120.0, 120.0, 1.0])
UNIT_TO_WORLD[:3, 3] = -37.0, 82.0, 640.0
"""The scene's scale_mat: far from the identity, so that omitting it or applying it twice is noticed."""

CAMERA_DISTANCE = 3.0
_DISTANCE_JITTER, _DIRECTION_JITTER, _TARGET_JITTER, _ROLL_JITTER = 0.04, 0.05, 0.02, np.radians(8.0)
_FOCAL = 1.86  # over the image's shorter side; the object fills the image from most sides
_ASPECT = 1.02  # fy / fx
_PRINCIPAL_SHIFT = (0.018, -0.012)  # from the image's center, over its width and height
_STEEP = 0.72  # sine of the elevation above which +y is up
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


def camera_intrinsics(img_res: tuple[int, int]) -> Array:
    """(4, 4) K of all views, without skew; fx and fy differ, and the principal point is off center."""
    height, width = img_res
    focal = _FOCAL * min(img_res)
    intrinsics = np.diag([focal, _ASPECT * focal, 1.0, 1.0])
    intrinsics[0, 2] = (width - 1) / 2 + _PRINCIPAL_SHIFT[0] * width
    intrinsics[1, 2] = (height - 1) / 2 + _PRINCIPAL_SHIFT[1] * height
    return intrinsics


def spiral_directions(num_views: int) -> Array:
    """(B, 3) unit vectors spread evenly over the sphere (Fibonacci spiral), from north to south pole."""
    steps = np.arange(num_views)
    height = 1 - (2 * steps + 1) / num_views
    radius, azimuth = np.sqrt(1 - height**2), _GOLDEN_ANGLE * steps
    return np.column_stack((radius * np.cos(azimuth), radius * np.sin(azimuth), height))


def holdout_views(num_views: int, num_holdout: int) -> list[int]:
    """Chooses held-out views by farthest point sampling, ascending; independent of the seed."""
    if num_holdout == 0:
        return []
    directions = spiral_directions(num_views)
    chosen = [num_views // 2]
    while len(chosen) < num_holdout:
        nearest = (directions @ directions[chosen].T).max(axis=1)
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
    return sorted(chosen)


def look_at(center: Array, target: Array, roll: float = 0.0, steep: float = _STEEP) -> Array:
    """Returns the (4, 4) camera-to-world pose of a camera at `center` that looks at `target`, with +z up.

    In views steeper than an elevation of sine `steep`, +y is up: the object is longest along x, which is then
    horizontal. `roll` rotates the camera about its optical axis, in radians.
    """
    forward = (target - center) / np.linalg.norm(target - center)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < steep else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2], pose[:3, 3] = forward, center
    return pose


def view_poses(num_views: int, generator: np.random.Generator) -> Array:
    """(B, 4, 4) poses at random offsets from a spiral, about `CAMERA_DISTANCE` from the origin."""
    poses = []
    for direction in spiral_directions(num_views):
        jittered = direction + _DIRECTION_JITTER * generator.standard_normal(3)
        distance = CAMERA_DISTANCE * (1 + _DISTANCE_JITTER * generator.uniform(-1, 1))
        target = _TARGET_JITTER * generator.uniform(-1, 1, 3)
        roll = _ROLL_JITTER * generator.uniform(-1, 1)
        poses.append(look_at(distance * jittered / np.linalg.norm(jittered), target, roll))
    return np.stack(poses)


def world_matrix(intrinsics: Array, pose: Array) -> Array:
    """`world_mat_i` of a pose in the unit-sphere frame: (4, 4), K [R | t] over (0, 0, 0, 1)."""
    center = UNIT_TO_WORLD[:3, :3] @ pose[:3, 3] + UNIT_TO_WORLD[:3, 3]
    world_to_cam = np.eye(4)
    world_to_cam[:3, :3] = pose[:3, :3].T
    world_to_cam[:3, 3] = -pose[:3, :3].T @ center
    return intrinsics @ world_to_cam


def write_cameras(path: Path, intrinsics: Array, poses: Array) -> None:
    """Writes an npz with `scale_mat_i` and `world_mat_i` of (B, 4, 4) poses in the unit-sphere frame."""
    matrices: dict[str, Array] = {}
    for i, pose in enumerate(poses):
        matrices |= {f"scale_mat_{i}": UNIT_TO_WORLD, f"world_mat_{i}": world_matrix(intrinsics, pose)}
    np.savez(path, allow_pickle=False, **matrices)
