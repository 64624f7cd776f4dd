"""Paths of cameras around an object at the origin, as poses.

F frames, K keys. Poses are (4, 4) camera-to-world, OpenCV axes (x right, y down, z forward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from idr.errors import InputError
from idr.geometry.quaternions import quaternion_to_rotation, rotation_to_quaternion

Array = NDArray[np.float64]

_SAME_ROTATION = 1e-6
"""Two unit quaternions are one rotation if their dot product is within this of +-1."""

NO_COMMON_UP = 0.2
"""Length of the mean of the cameras' up directions below which they have none in common."""

LEVEL, TURNED = 0.5, 0.2
"""Cameras count as level if their right axes leave a plane by at most `LEVEL` of their spread in it (root
mean squares), and as turned enough to tell that plane if the smaller spread in it is at least `TURNED`."""

STEEPEST = np.radians(85.0)
"""Largest elevation of a spiral: straight above the object an upright camera is undefined."""


def camera_path(
    rotations: Array, times: Sequence[float], distances: Sequence[float], frame_times: Array
) -> Array:
    """Interpolates cameras that look at the origin.

    Cubic splines interpolate the keys' quaternions and distances; the quaternion is then normalized, and the
    camera's center is minus its distance times its z axis. Signs are matched first, since q and -q are the
    same rotation, but a spline between them is not constant. A path whose last key repeats the first is
    periodic (smooth where it closes), also if the quaternion returns negated: it then has twice the period.
    Other paths end with zero curvature.

    Args:
        rotations: (K, 3, 3) camera-to-world rotations of the keys.
        times: (K) increasing.
        distances: (K) from the origin.
        frame_times: (F,) within the times.

    Returns:
        (F, 4, 4) camera-to-world poses.
    """
    knots = np.asarray(times, dtype=np.float64)
    quaternions = rotation_to_quaternion(torch.as_tensor(np.asarray(rotations, dtype=np.float64))).numpy()
    for k in range(1, len(quaternions)):
        if quaternions[k] @ quaternions[k - 1] < 0:
            quaternions[k] *= -1
    keys = np.column_stack((quaternions, distances))  # (K, 5)
    turn = quaternions[-1] @ quaternions[0]
    if abs(turn) < 1 - _SAME_ROTATION or distances[-1] != distances[0]:
        spline = CubicSpline(knots, keys, bc_type="natural")
    else:
        sign = np.append(np.full(4, np.sign(turn)), 1.0)
        keys[-1] = sign * keys[0]
        if turn < 0:
            knots = np.concatenate((knots, knots[1:] + knots[-1] - knots[0]))
            keys = np.concatenate((keys, sign * keys[1:]))
        spline = CubicSpline(knots, keys, bc_type="periodic")
    at_frames = spline(frame_times)  # (F, 5)
    rotation = quaternion_to_rotation(torch.from_numpy(at_frames[:, :4])).numpy()
    return _poses(rotation, -at_frames[:, 4:] * rotation[:, :, 2])


def _poses(rotations: Array, centers: NDArray[np.floating]) -> Array:
    poses = np.tile(np.eye(4), (len(centers), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations, centers
    return poses


@dataclass(frozen=True)
class Surroundings:
    """Upright direction of a scene, and the places of its cameras.

    Attributes:
        up: (3,) unit vector.
        distance: Mean distance of the cameras from the origin.
        elevations: (B) angle of each camera above the horizon, radians.
    """

    up: Array
    distance: float
    elevations: Array


def surroundings(poses: NDArray[np.floating]) -> Surroundings:
    """Estimates the upright direction of a scene from its cameras, poses (B, 4, 4).

    It is normal to their right axes, which are level however steeply a camera looks down. The mean of their
    up axes, which leans to the side of more cameras, says which of the two normals; it is the upright itself
    if the right axes are not level or all alike, see `LEVEL`.

    Raises:
        InputError: The cameras' up axes have no common direction.
    """
    poses = np.asarray(poses, dtype=np.float64)
    mean = -poses[:, :3, 1].mean(axis=0)
    if np.linalg.norm(mean) < NO_COMMON_UP:
        raise InputError(
            "the cameras' up axes have no common direction, so the scene has no upright: choose --path views "
            "or a JSON path"
        )
    _, spreads, axes = np.linalg.svd(poses[:, :3, 0] / np.sqrt(len(poses)))
    level = len(poses) > 2 and spreads[1] >= TURNED and spreads[2] <= LEVEL * spreads[1]
    up = axes[2] * np.sign(axes[2] @ mean) if level and axes[2] @ mean != 0 else mean / np.linalg.norm(mean)
    distances = np.linalg.norm(poses[:, :3, 3], axis=1)
    return Surroundings(up, float(distances.mean()), np.arcsin(poses[:, :3, 3] @ up / distances))


def upright_of_cameras(poses: NDArray[np.floating]) -> Array:
    """Returns the rotation, (3, 3), to glTF's axes, the first of the cameras, (B, 4, 4), in front.

    Up is that of `surroundings`, or the first camera's if the cameras have none in common.
    """
    try:
        up = surroundings(poses).up
    except InputError:
        up = -np.asarray(poses[0, :3, 1], dtype=np.float64)
    return upright_rotation(up, poses[0, :3, 3])


def upright_rotation(up: NDArray[np.floating], front: NDArray[np.floating]) -> Array:
    """Returns the rotation, (3, 3), to glTF's axes: up, (3,) of any length, becomes +Y, the front +Z.

    `front`, (3,), points from the object to the viewer; if it is parallel to `up`, any front is used.
    """
    y = np.asarray(up, dtype=np.float64) / np.linalg.norm(up)
    z = _horizontal(front, y)
    return np.stack((np.cross(y, z), y, z))


def _horizontal(vector: NDArray[np.floating], up: NDArray[np.floating]) -> Array:
    """The direction of a vector across a unit vector, or any such direction if they are parallel."""
    flat = np.asarray(vector, dtype=np.float64) - up * (vector @ up)
    if np.linalg.norm(flat) <= 1e-6 * np.linalg.norm(vector):
        flat = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    return flat / np.linalg.norm(flat)


def look_at_origin(centers: NDArray[np.floating], up: NDArray[np.floating]) -> Array:
    """Returns upright poses, (F, 4, 4), at (F, 3) centers off the upright axis, that look at the origin."""
    forward = -centers / np.linalg.norm(centers, axis=1, keepdims=True)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return _poses(np.stack((right, np.cross(forward, right), forward), axis=-1), centers)


def spiral(
    up: Array, start: Array, distance: float, elevations: tuple[float, float], turns: float, num_frames: int
) -> Array:
    """Returns a spiral of poses, (F, 4, 4), around the origin; with equal elevations it is an orbit.

    Args:
        up: (3,) unit vector.
        start: (3,) point whose azimuth is that of the first frame.
        distance: Distance from the origin.
        elevations: Angles above the horizon at the start and the end, radians; clamped to +-85 degrees.
        turns: Number of turns, counterclockwise seen from above; negative for clockwise.
        num_frames: F. An orbit of whole turns does not repeat its first frame.
    """
    first = _horizontal(start, up)
    second = np.cross(up, first)
    closed = elevations[0] == elevations[1] and float(turns).is_integer()
    at = np.linspace(0.0, 1.0, num_frames, endpoint=not closed)
    azimuth = 2 * np.pi * turns * at
    elevation = np.clip(elevations[0] + (elevations[1] - elevations[0]) * at, -STEEPEST, STEEPEST)
    around = np.cos(azimuth)[:, None] * first + np.sin(azimuth)[:, None] * second
    directions = np.cos(elevation)[:, None] * around + np.sin(elevation)[:, None] * up
    return look_at_origin(distance * directions, up)


def between_poses(poses: NDArray[np.floating], num_frames: int, closed: bool) -> Array:
    """Interpolates between cameras: rotations along geodesics, the origin linearly in the camera's axes.

    The position of the origin in the camera's own axes is interpolated, not the camera's center in the world:
    an object that both keys see stays in the image and at its distance. The time between two keys depends on
    the camera's rotation and motion, so that the speed is even.

    Args:
        poses: (K, 4, 4) keys. Between two that differ by half a turn, either direction may be used.
        num_frames: F.
        closed: Return to the first key, which is not repeated as the last frame.

    Returns:
        (F, 4, 4) poses; the first frame is the first key.

    Raises:
        InputError: Fewer than two keys.
    """
    keys = np.asarray(poses, dtype=np.float64)
    if len(keys) < 2:
        raise InputError(f"a path through {len(keys)} view: expected at least 2 views")
    if closed:
        keys = np.concatenate((keys, keys[:1]))
    rotations = Rotation.from_matrix(keys[:, :3, :3])
    origin = -rotations.inv().apply(keys[:, :3, 3])  # (K, 3) in the cameras' axes
    turned = (rotations[:-1].inv() * rotations[1:]).magnitude()
    moved = np.linalg.norm(np.diff(origin, axis=0), axis=1) / np.linalg.norm(origin[1:], axis=1)
    # slerp needs increasing times, also for equal keys.
    times = np.concatenate(([0.0], np.cumsum(turned + moved + 1e-6)))
    at = np.linspace(0.0, times[-1], num_frames, endpoint=not closed)
    between = Slerp(times, rotations)(at)
    seen = np.column_stack([np.interp(at, times, along) for along in origin.T])  # (F, 3)
    return _poses(between.as_matrix(), -between.apply(seen))
