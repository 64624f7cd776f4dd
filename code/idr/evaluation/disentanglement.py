"""One run's geometry in another's appearance, seen along a camera path (paper, section 4.3).

K key views, F frames, B training views of the geometry's scene.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from idr.errors import InputError
from idr.evaluation.loading import LoadedModel
from idr.geometry.quaternions import quaternion_to_rotation, rotation_to_quaternion
from idr.rendering import Forward, render_image, write_image

log = logging.getLogger(__name__)

PUBLISHED_VIEWS = (11, 16, 34, 28, 11)
PUBLISHED_TIMES = (0.0, 2.0, 3.0, 5.0, 6.0)
PUBLISHED_DISTANCES = (4.2, 4.2, 3.8, 3.8, 4.2)
PUBLISHED_FRAMES = 30

_SAME_ROTATION = 1e-6
"""Two unit quaternions are one rotation if their dot product is within this of +-1."""


@dataclass(frozen=True)
class PathKeys:
    """Where a camera path passes, and when.

    Attributes:
        views: (K) training views whose orientation the camera takes.
        times: (K) when, increasing.
        distances: (K) distance from the origin, unit-sphere units.
    """

    views: tuple[int, ...]
    times: tuple[float, ...]
    distances: tuple[float, ...]


def path_keys(
    num_views: int,
    views: Sequence[int] | None = None,
    times: Sequence[float] | None = None,
    distances: Sequence[float] | None = None,
) -> PathKeys:
    """Completes what a user gave of a path with the published keys.

    Where the views are not given and the scene lacks the published ones, or another number of keys is asked
    for, views spread evenly over the scene stand in, the last the first again.

    Args:
        num_views: B.
        views: Key views, or None.
        times: Their times, or None: the published ones, for another number of keys a second apart.
        distances: Their distances, or None: the published ones, for another number of keys all 4.2.

    Returns:
        Keys that belong together.

    Raises:
        InputError: The numbers of keys differ, or a value is out of its range.
    """
    given = {"--key_views": views, "--key_times": times, "--key_distances": distances}
    counts = {flag: len(values) for flag, values in given.items() if values is not None}
    count = next(iter(counts.values()), len(PUBLISHED_VIEWS))
    if len(set(counts.values())) > 1 or count < 2:
        listing = ", ".join(f"{number} {flag}" for flag, number in counts.items())
        raise InputError(f"got {listing}: expected the same number of each, at least 2")
    published = count == len(PUBLISHED_VIEWS)
    if views is None:
        views = PUBLISHED_VIEWS
        if not published or max(views) >= num_views:
            views = [round(k * num_views / (count - 1)) % num_views for k in range(count)]
            log.info("the scene has %d views; key views spread over them: %s", num_views, views)
    if times is None:
        times = PUBLISHED_TIMES if published else range(count)
    if distances is None:
        distances = PUBLISHED_DISTANCES if published else [PUBLISHED_DISTANCES[0]] * count
    _check_keys(num_views, views, times, distances)
    return PathKeys(tuple(views), tuple(map(float, times)), tuple(map(float, distances)))


def _check_keys(
    num_views: int, views: Sequence[int], times: Sequence[float], distances: Sequence[float]
) -> None:
    absent = [view for view in views if not 0 <= view < num_views]
    if absent:
        raise InputError(f"--key_views: no view {absent[0]}; the scene has views 0 to {num_views - 1}")
    if not (np.diff(times) > 0).all():
        raise InputError(f"--key_times {list(times)}: expected increasing times")
    if not all(distance > 0 for distance in distances):
        raise InputError(f"--key_distances {list(distances)}: expected positive distances")


def camera_path(
    rotations: NDArray[np.floating],
    times: Sequence[float],
    distances: Sequence[float],
    frame_times: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Interpolates cameras that look at the origin.

    Cubic splines run through the keys' quaternions and distances; the quaternion is then normalised and the
    camera stands at minus its distance times its z axis. Signs are matched first, since q and -q are one
    rotation and a spline between the two would leave it. A path whose last key repeats the first is periodic
    (smooth where it closes) even if it turns so that the quaternion comes back negated: it then has
    twice the period. Another path ends with zero curvature.

    Args:
        rotations: (K, 3, 3) camera-to-world rotations of the keys.
        times: (K) increasing.
        distances: (K) from the origin.
        frame_times: (F,) within the times.

    Returns:
        (F, 4, 4) camera-to-world poses.
    """
    knots = np.asarray(times, dtype=np.float64)
    quaternions = (
        rotation_to_quaternion(torch.as_tensor(np.asarray(rotations, dtype=np.float64))).numpy().copy()
    )
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
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3] = rotation
    poses[:, :3, 3] = -at_frames[:, 4:] * rotation[:, :, 2]
    return poses


def compose(geometry: LoadedModel, appearance: LoadedModel) -> Any:
    """Joins the surface of one network with the colours of another.

    Args:
        geometry: Gives tracer, signed distance, features and normals.
        appearance: Gives the rendering network.

    Returns:
        A network of the geometry's class; the two that went in are unchanged.

    Raises:
        InputError: The rendering network takes another number of features than the geometry gives.
    """
    origin = torch.zeros(1, 3, device=geometry.device)
    with torch.no_grad():
        features = geometry.model.implicit_network(origin)[:, 1:]
    joined = copy.copy(geometry.model)
    joined._modules = dict(geometry.model._modules)  # a shallow copy shares this table: give it its own
    joined.rendering_network = appearance.model.rendering_network.to(geometry.device)
    try:
        with torch.no_grad():
            joined.rendering_network(origin, origin, origin, features)
    except RuntimeError as error:
        wanted = getattr(appearance.model, "feature_vector_size", "another number of")
        raise InputError(
            f"the geometry's network gives {features.shape[1]} features but the appearance's takes {wanted}: "
            "choose two runs of the same model.feature_vector_size"
        ) from error
    return joined


def resized_intrinsics(intrinsics: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Returns K for the same view in another number of pixels.

    Args:
        intrinsics: (4, 4) K; whole pixel coordinates are pixel centres.
        old: Height and width that it belongs to.
        new: Height and width wanted.

    Returns:
        (4, 4) K.
    """
    scale_y, scale_x = new[0] / old[0], new[1] / old[1]
    resize = torch.eye(4, dtype=intrinsics.dtype, device=intrinsics.device)
    resize[0, 0], resize[1, 1] = scale_x, scale_y
    # The image's edges lie half a pixel outside the centres of its outermost pixels.
    resize[0, 2], resize[1, 2] = 0.5 * scale_x - 0.5, 0.5 * scale_y - 0.5
    return resize @ intrinsics


def write_frames(
    forward: Forward,
    intrinsics: Tensor,
    poses: NDArray[np.floating],
    img_res: tuple[int, int],
    folder: Path,
    chunk_pixels: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[NDArray[np.uint8]]:
    """Renders a path to ``eval_<frame>.png``.

    Args:
        forward: The composed network.
        intrinsics: (4, 4) K on the network's device.
        poses: (F, 4, 4) camera-to-world, unit-sphere coordinates.
        img_res: Height and width.
        folder: Where the images go.
        chunk_pixels: Pixels rendered at once.
        progress: Called after each frame with the frames done and F.

    Returns:
        F images (H, W, 3), 8 bits.

    Raises:
        OutputError: A file cannot be written.
    """
    frames = []
    for number, pose in enumerate(poses):
        view = torch.as_tensor(pose, dtype=torch.float32).to(intrinsics.device)
        image = render_image(forward, intrinsics, view, img_res, chunk_pixels=chunk_pixels)
        write_image(image.rgb01, folder / f"eval_{number:03d}.png")
        frames.append((image.rgb01 * 255).round().to(torch.uint8).numpy())
        progress(number + 1, len(poses))
    return frames
