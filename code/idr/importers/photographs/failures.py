"""Why photographs gave no cameras: what their features and matches say, with what to do about it.

N points, M matches, S the images that see a point.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from idr.errors import InputError
from idr.importers.source import Array

FEWEST_FEATURES = 100
"""Features of a photograph below which it hardly matches another."""
VERIFIED_MATCHES = 15
"""Matches that agree with one motion from which a pair counts as overlapping; COLMAP's own number."""
STILL = 0.01
"""Share of an image's longer side by which matches move, below which two photographs are of one viewpoint."""
FEWEST_DEGREES = 1.0
"""Median over the points of the widest angle between rays to them, below which depth means nothing."""
SAMPLED_POINTS = 1000
NAMED = 8
PARALLAX = "walk around the object and photograph it from places some 10 to 20 degrees apart"


def refuse_no_model(pycolmap: Any, database: Path, names: dict[str, str]) -> NoReturn:
    """Says why the mapper found no pair of photographs to begin with.

    Args:
        pycolmap: The module.
        database: COLMAP's database with features and verified matches.
        names: User's names by the names in the database.

    Raises:
        InputError: Always: no texture, no overlap, one viewpoint, or no pair to begin with.
    """
    opened = pycolmap.Database.open(database)
    try:
        images = {image.image_id: image for image in opened.read_all_images()}
        keypoints = {key: np.asarray(opened.read_keypoints(key)) for key in images}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        pairs = [
            (pycolmap.pair_id_to_image_pair(pair), np.asarray(geometry.inlier_matches))
            for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True)
        ]
    finally:
        opened.close()
    poor = [names[images[key].name] for key, found in keypoints.items() if len(found) < FEWEST_FEATURES]
    if len(poor) * 2 > len(images):
        raise InputError(
            f"too few features: {len(poor)} of {len(images)} photographs have fewer than {FEWEST_FEATURES} "
            f"({_listed(poor)}); expected sharp photographs of at least 600 pixels with texture: put the "
            "object on a printed, patterned ground (a newspaper does)"
        )
    overlapping = [(ids, matches) for ids, matches in pairs if len(matches) >= VERIFIED_MATCHES]
    if not overlapping:
        raise InputError(
            f"too few matches: no two of {len(images)} photographs show enough of the same; expected each to "
            "overlap its neighbors by two thirds: take more photographs between these, of an object that "
            "does not move on its ground"
        )
    shifts = []
    for (first, second), matches in overlapping:
        camera = cameras[images[first].camera_id]
        moved = keypoints[first][matches[:, 0], :2] - keypoints[second][matches[:, 1], :2]
        shifts.append(float(np.median(np.linalg.norm(moved, axis=1))) / max(camera.width, camera.height))
    if np.median(shifts) < STILL:
        raise InputError(
            f"one viewpoint: between {len(images)} photographs nothing moves (median "
            f"{100 * float(np.median(shifts)):.2f} % of the image); expected photographs from different "
            f"places: {PARALLAX}"
        )
    raise InputError(
        f"no pair to begin with: {len(overlapping)} pairs of {len(images)} photographs overlap, but none has "
        f"enough matches with depth between them; expected a camera that moves, not only turns: {PARALLAX}, "
        "sharp and with a patterned ground under it"
    )


def refuse_few_registered(model: Any, names: dict[str, str], needed: int) -> None:
    """Refuses a model of too few photographs.

    Args:
        model: A `pycolmap.Reconstruction`.
        names: User's names by the names in the model.
        needed: Photographs that must be in it.

    Raises:
        InputError: Fewer are.
    """
    registered = {model.images[i].name for i in model.reg_image_ids()}
    if len(registered) >= needed:
        return
    missing = [name for key, name in names.items() if key not in registered]
    if not missing:
        raise InputError(
            f"registered {len(registered)} of {len(names)} photographs, expected {needed} or more: there are "
            f"no more; take more photographs, or go on by --min_registered {len(registered)}"
        )
    raise InputError(
        f"registered {len(registered)} of {len(names)} photographs, expected {needed} or more; no place "
        f"found for {_listed(missing)}: take photographs between these and the others, or go on with fewer "
        f"by --min_registered {len(registered)}"
    )


def refuse_one_viewpoint(model: Any) -> None:
    """Refuses a model whose cameras stand about in one place, so that its depths are noise.

    Args:
        model: A `pycolmap.Reconstruction`.

    Raises:
        InputError: The median of the points' widest angles is below one degree.
    """
    angle = median_angle(model)
    if angle < FEWEST_DEGREES:
        raise InputError(
            f"one viewpoint: half of the points are seen under angles below {angle:.2f} degrees; expected "
            f"{FEWEST_DEGREES:g} at least, better 20: {PARALLAX}"
        )


def median_angle(model: Any) -> float:
    """Median over points of the widest angle between the rays of two cameras to it.

    Args:
        model: A `pycolmap.Reconstruction`.

    Returns:
        Degrees; 0 for a model without points.
    """
    centers = {i: np.asarray(model.images[i].projection_center()) for i in model.reg_image_ids()}
    points = [model.points3D[key] for key in sorted(model.point3D_ids())]
    sampled = points[:: max(1, len(points) // SAMPLED_POINTS)]
    widest = [
        _widest_angle(np.asarray(point.xyz), np.array([centers[e.image_id] for e in point.track.elements]))
        for point in sampled
    ]
    return float(np.median(widest)) if widest else 0.0


def _widest_angle(point: Array, centers: Array) -> float:
    rays = (centers - point) / np.linalg.norm(centers - point, axis=1, keepdims=True)  # (S, 3)
    cosines = [float(rays[i] @ rays[j]) for i, j in combinations(range(len(rays)), 2)]
    return float(np.degrees(np.arccos(np.clip(min(cosines, default=1.0), -1.0, 1.0))))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
