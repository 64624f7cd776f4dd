"""One run's geometry in another's appearance, seen along a camera path (paper, section 4.3).

K key views, B training views of the geometry's scene. Paths are in `idr.geometry.paths`, their
renderer in `idr.export.path_frames`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from idr.errors import InputError
from idr.runs.opened import LoadedModel

log = logging.getLogger(__name__)

PUBLISHED_VIEWS = (11, 16, 34, 28, 11)
PUBLISHED_TIMES = (0.0, 2.0, 3.0, 5.0, 6.0)
PUBLISHED_DISTANCES = (4.2, 4.2, 3.8, 3.8, 4.2)
PUBLISHED_FRAMES = 30


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


def compose(geometry: LoadedModel, appearance: LoadedModel) -> Any:
    """Joins the surface of one network with the colors of another.

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
