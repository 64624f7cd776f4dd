"""Geometry of one run with the appearance of another, along a camera path (paper, section 4.3).

K key views, B training views of the geometry's scene. `idr.geometry.paths` interpolates the path,
`idr.export.path_frames` renders it.
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

log = logging.getLogger(__name__)

PUBLISHED_VIEWS = (11, 16, 34, 28, 11)
PUBLISHED_TIMES = (0.0, 2.0, 3.0, 5.0, 6.0)
PUBLISHED_DISTANCES = (4.2, 4.2, 3.8, 3.8, 4.2)


@dataclass(frozen=True)
class PathKeys:
    """Key views of a camera path: training views that give the orientation, increasing times, and distances.

    There are K of each; distances are from the origin, in unit-sphere units.
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
    """Completes a user's path with the published keys.

    Args:
        num_views: B.
        views: Key views; None for the published ones, or views spread evenly, the last one the first again,
            if the scene lacks those or another number of keys is given.
        times: Times; None for the published ones, or one second apart for another number of keys.
        distances: Distances; None for the published ones, or 4.2 for another number of keys.

    Raises:
        InputError: The numbers of keys differ, or a value is out of range.
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
    absent = [view for view in views if not 0 <= view < num_views]
    if absent:
        raise InputError(f"--key_views: no view {absent[0]}; the scene has views 0 to {num_views - 1}")
    if not (np.diff(times) > 0).all():
        raise InputError(f"--key_times {list(times)}: expected increasing times")
    if not all(distance > 0 for distance in distances):
        raise InputError(f"--key_distances {list(distances)}: expected positive distances")
    return PathKeys(tuple(views), tuple(map(float, times)), tuple(map(float, distances)))


def compose(geometry: Any, appearance: Any, device: torch.device) -> Any:
    """Returns a network with tracer, signed distance and features of one network and the colors of another.

    The geometry, on `device`, is left unchanged.

    Raises:
        InputError: The two networks have different numbers of features.
    """
    origin = torch.zeros(1, 3, device=device)
    joined = copy.copy(geometry)
    joined._modules = dict(geometry._modules)  # a shallow copy shares this dictionary
    joined.rendering_network = appearance.rendering_network.to(device)
    with torch.no_grad():
        features = geometry.implicit_network(origin)[:, 1:]
        try:
            joined.rendering_network(origin, origin, origin, features)
        except RuntimeError as error:
            expected = getattr(appearance, "feature_vector_size", "another number of")
            raise InputError(
                f"the geometry's network gives {features.shape[1]} features but the appearance's takes "
                f"{expected}: choose two runs of the same model.feature_vector_size"
            ) from error
    return joined
