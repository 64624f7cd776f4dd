"""The built-in scene's cameras: a full sphere of views, exact and disturbed.

B views. numpy in float64. Poses are camera-to-world in the frame of the unit sphere, axes OpenCV's (x right,
y down, z forward); the world's frame differs from it by `UNIT_TO_WORLD`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WORLD_SCALE = 120.0
WORLD_OFFSET = (-37.0, 82.0, 640.0)
UNIT_TO_WORLD = np.array(
    [
        [WORLD_SCALE, 0.0, 0.0, WORLD_OFFSET[0]],
        [0.0, WORLD_SCALE, 0.0, WORLD_OFFSET[1]],
        [0.0, 0.0, WORLD_SCALE, WORLD_OFFSET[2]],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""The scene's scale_mat: far from the identity, so that a forgotten or doubled one shows at once."""

CAMERA_DISTANCE = 3.0
_DISTANCE_JITTER, _DIRECTION_JITTER, _TARGET_JITTER, _ROLL_JITTER = 0.04, 0.05, 0.02, np.radians(8.0)
_FOCAL = 1.86  # in units of the picture's shorter side: the object fills it from most sides
_ASPECT = 1.02  # fy / fx
_PRINCIPAL_SHIFT = (0.018, -0.012)  # from the picture's middle, in units of its width and height
_STEEP = 0.72  # steeper views, by the sine of their elevation, have +y at the top
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


def camera_intrinsics(img_res: tuple[int, int]) -> Array:
    """Returns the K of all views; its fx and fy differ and its principal point is off the middle.

    Args:
        img_res: Height and width in pixels.

    Returns:
        (4, 4) intrinsics, without skew.
    """
    height, width = img_res
    intrinsics = np.eye(4)
    intrinsics[0, 0] = _FOCAL * min(height, width)
    intrinsics[1, 1] = _ASPECT * intrinsics[0, 0]
    intrinsics[0, 2] = (width - 1) / 2 + _PRINCIPAL_SHIFT[0] * width
    intrinsics[1, 2] = (height - 1) / 2 + _PRINCIPAL_SHIFT[1] * height
    return intrinsics


def spiral_directions(num_views: int) -> Array:
    """Spreads directions evenly over the sphere (Fibonacci's spiral), from the north pole to the south.

    Args:
        num_views: B, at least 1.

    Returns:
        (B, 3) unit vectors.
    """
    steps = np.arange(num_views)
    height = 1 - (2 * steps + 1) / num_views
    radius, azimuth = np.sqrt(1 - height**2), _GOLDEN_ANGLE * steps
    return np.column_stack((radius * np.cos(azimuth), radius * np.sin(azimuth), height))


def holdout_views(num_views: int, num_holdout: int) -> list[int]:
    """Chooses views to hold out, spread over the sphere; the same for every seed.

    Args:
        num_views: All views written.
        num_holdout: How many of them, fewer than all.

    Returns:
        Ascending indices: each next choice is the view farthest from those chosen before.
    """
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
    """Returns the pose of a camera that looks at a point, its picture's top towards +z or, from high up, +y.

    The object is longest along x, which thus lies across the picture in views from above and below.

    Args:
        center: (3,) the camera's center.
        target: (3,) the point, another than the center.
        roll: Turn about the optical axis in radians.
        steep: Sine of the elevation from which on +y is at the top; 1 for never.

    Returns:
        (4, 4) camera-to-world.
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
    """Places cameras around the object, each a little off the regular spiral.

    Args:
        num_views: B.
        generator: Source of the deviations.

    Returns:
        (B, 4, 4) poses, about `CAMERA_DISTANCE` from the origin.
    """
    poses = []
    for direction in spiral_directions(num_views):
        turned = direction + _DIRECTION_JITTER * generator.standard_normal(3)
        distance = CAMERA_DISTANCE * (1 + _DISTANCE_JITTER * generator.uniform(-1, 1))
        target = _TARGET_JITTER * generator.uniform(-1, 1, 3)
        roll = _ROLL_JITTER * generator.uniform(-1, 1)
        poses.append(look_at(distance * turned / np.linalg.norm(turned), target, roll))
    return np.stack(poses)


def world_matrix(intrinsics: Array, pose: Array) -> Array:
    """Returns the projection from world coordinates, as `world_mat_i` holds it.

    Args:
        intrinsics: (4, 4).
        pose: (4, 4) camera-to-world in the frame of the unit sphere.

    Returns:
        (4, 4): K [R | t] over (0, 0, 0, 1).
    """
    center = UNIT_TO_WORLD[:3, :3] @ pose[:3, 3] + UNIT_TO_WORLD[:3, 3]
    world_to_cam = np.eye(4)
    world_to_cam[:3, :3] = pose[:3, :3].T
    world_to_cam[:3, 3] = -pose[:3, :3].T @ center
    return intrinsics @ world_to_cam
