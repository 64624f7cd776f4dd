"""Explains why structure from motion failed, from features and matches, and what to do about it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from idr.importers.photographs.attempts import BACKDROP, EVERYWHERE, MASKS
from idr.preprocess.triangulation import widest_angle

MIN_FEATURES = 100
"""Features that a photograph needs to match others."""
MIN_VERIFIED_MATCHES = 15
"""Geometrically verified matches of an overlapping pair; COLMAP's own threshold."""
MIN_MOTION = 0.01
"""Median displacement of matches, over the image's longer side; smaller ones mean a single viewpoint."""
MIN_ANGLE = 1.0
"""Degrees: median triangulation angle below which depth is undetermined."""
SAMPLED_POINTS = 1000
MAX_LISTED = 8
PARALLAX = "walk around the object and take a photograph every 10 to 20 degrees"


def explain_no_model(pycolmap: Any, database: Path, names: dict[str, str]) -> str:
    """Says why the mapper found no initial pair, from features and verified matches in COLMAP's database.

    It is too little texture, no overlap, one viewpoint, or no initial pair. `names` has the user's file names
    by the names in the database.
    """
    with closing(pycolmap.Database.open(database)) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        keypoints = {key: np.asarray(opened.read_keypoints(key)) for key in images}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        pairs = [
            (pycolmap.pair_id_to_image_pair(pair), np.asarray(geometry.inlier_matches))
            for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True)
        ]
    poor = [names[images[key].name] for key, found in keypoints.items() if len(found) < MIN_FEATURES]
    if len(poor) * 2 > len(images):
        return (
            f"too few features: {len(poor)} of {len(images)} photographs have fewer than {MIN_FEATURES} "
            f"({_listed(poor)}); expected sharp, textured photographs of at least 600 pixels: place the "
            "object on a printed pattern, such as a newspaper"
        )
    overlapping = [(ids, matches) for ids, matches in pairs if len(matches) >= MIN_VERIFIED_MATCHES]
    if not overlapping:
        return (
            f"too few matches: no two of {len(images)} photographs overlap enough; expected each to overlap "
            "its neighbors by two thirds: take more photographs in between, and do not move the object "
            "relative to the ground"
        )
    shifts = []
    for (first, second), matches in overlapping:
        camera = cameras[images[first].camera_id]
        motion = keypoints[first][matches[:, 0], :2] - keypoints[second][matches[:, 1], :2]
        shifts.append(float(np.median(np.linalg.norm(motion, axis=1))) / max(camera.width, camera.height))
    if np.median(shifts) < MIN_MOTION:
        return (
            f"one viewpoint: {len(images)} photographs show no motion (median "
            f"{100 * float(np.median(shifts)):.2f} % of the image); expected photographs from different "
            f"viewpoints: {PARALLAX}"
        )
    return (
        f"no initial pair: {len(overlapping)} pairs of {len(images)} photographs overlap, but none has "
        f"enough matches with parallax; expected a camera that moves, not only rotates: {PARALLAX}, with the "
        "object on a patterned ground"
    )


def explain_one_viewpoint(model: Any) -> str | None:
    """Says that the median triangulation angle is below `MIN_ANGLE`: depths would be noise; else None.

    A point's triangulation angle is the widest angle between rays from two cameras that see it.
    """
    centers = {i: np.asarray(model.images[i].projection_center()) for i in model.reg_image_ids()}
    points = [model.points3D[key] for key in sorted(model.point3D_ids())]
    sampled = points[:: max(1, len(points) // SAMPLED_POINTS)]
    widest = [
        widest_angle(np.asarray(point.xyz), np.array([centers[e.image_id] for e in point.track.elements]))
        for point in sampled
    ]
    angle = float(np.median(widest)) if widest else 0.0
    if angle >= MIN_ANGLE:
        return None
    return (
        f"one viewpoint: the median triangulation angle is {angle:.2f} degrees; expected at least "
        f"{MIN_ANGLE:g}, better 20: {PARALLAX}"
    )


def explain_few_registered(missing: list[str], count: int, needed: int) -> str | None:
    """Says that fewer than `needed` of `count` photographs are left without the missing ones; else None."""
    registered = count - len(missing)
    if registered >= needed:
        return None
    remedy = "take more photographs, or continue with"
    if missing:
        remedy = f"not registered: {_listed(missing)}; take photographs between these and the others, or "
        remedy += "continue with fewer:"
    return (
        f"registered {registered} of {count} photographs, expected {needed} or more; {remedy} "
        f"--min_registered {registered}"
    )


def advice(problem: str, region: str, has_masks: bool, second_try: bool) -> str:
    """Flags that may help after all attempts failed, as the end of a message; empty without any."""
    flags = []
    if not second_try:
        flags.append("try harder with --second_try on")
    if not problem.startswith("too few") and region == EVERYWHERE:
        flags.append("if the object turned before a camera that stood still, say so with --turntable")
    if region == BACKDROP and not has_masks:
        flags.append("find features only on the object with --mask_features and --masks FOLDER")
    if has_masks and region != MASKS:
        flags.append("use only features inside the masks with --mask_features")
    return "".join(f"; {flag}" for flag in flags)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
