"""Rough cameras beside the exact ones, for training that corrects them: `cameras_linear_init.npz`.

B views. Poses are (4, 4) camera-to-world, world frame and unit of the imported scene.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from idr.errors import InputError
from idr.geometry.rough_poses import disturb_poses
from idr.importers.masks.given import mask_stem
from idr.importers.source import Array, Source, SourceView

Align = Callable[[Array, Array], tuple[float, Array, Array]]
"""Finds scale, rotation (3, 3) and translation (3,) from (B, 4, 4) poses to the (B, 4, 4) that they meet."""
FEWEST_SHARED = 3
"""Views that both sources must have: a similarity between two frames needs as many."""


def disturbed_poses(poses: Array, center: Array, degrees: float, fraction: float, seed: int) -> Array:
    """Makes rough cameras by disturbing exact ones.

    Args:
        poses: (B, 4, 4) exact poses.
        center: (3,) the object's middle.
        degrees: Mean angle by which cameras are turned, about random axes; single ones 0.5 to 1.5 of it.
        fraction: Mean length by which they are moved, in random directions, over their distance from the
            middle; single ones likewise.
        seed: Of the noise.

    Returns:
        (B, 4, 4) poses.

    Raises:
        InputError: Degrees or fraction that are no disturbance, or too large to be one.
    """
    if not 0 <= degrees <= 45 or not 0 <= fraction <= 0.5:
        raise InputError(
            f"rough cameras of {degrees:g} degrees and {fraction:g} of the distance; expected 0 to 45 "
            "degrees and 0 to 0.5"
        )
    offsets = poses[:, :3, 3] - center
    distances = np.linalg.norm(offsets, axis=1, keepdims=True)
    local = poses.copy()
    local[:, :3, 3] = offsets / distances
    rough = disturb_poses(local, degrees, fraction, np.random.default_rng(seed))
    rough[:, :3, 3] = rough[:, :3, 3] * distances + center
    return rough


def poses_from(views: list[SourceView], poses: Array, align: Align) -> Array:
    """Takes rough cameras from another source of the same photographs.

    Args:
        views: B views of the other source, see `paired_views`.
        poses: (B, 4, 4) exact poses.
        align: Finds the similarity between the sources' frames.

    Returns:
        (B, 4, 4) the other source's poses in the exact ones' frame.
    """
    rough = np.stack([_pose(view) for view in views])
    scale, rotation, translation = align(rough, poses)
    rough[:, :3, 3] = scale * rough[:, :3, 3] @ rotation.T + translation
    rough[:, :3, :3] = rotation @ rough[:, :3, :3]
    return rough


def describe(rough: Array, poses: Array, center: Array) -> str:
    """Says how far rough cameras are off.

    Args:
        rough: (B, 4, 4) rough poses.
        poses: (B, 4, 4) exact poses.
        center: (3,) the object's middle.

    Returns:
        One sentence with mean angle, and mean move over distance.
    """
    traces = np.einsum("bij,bij->b", rough[:, :3, :3], poses[:, :3, :3])
    angle = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1))).mean()
    moved = np.linalg.norm(rough[:, :3, 3] - poses[:, :3, 3], axis=1)
    share = (moved / np.linalg.norm(poses[:, :3, 3] - center, axis=1)).mean()
    return (
        f"rough cameras in cameras_linear_init.npz: off by {angle:.2f} degrees and {100 * share:.1f} % of "
        "the distance on average; train with --train_cameras"
    )


def _pose(view: SourceView) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = view.world_to_camera[:, :3].T
    pose[:3, 3] = -view.world_to_camera[:, :3].T @ view.world_to_camera[:, 3]
    return pose


def paired_views(second: Source, names: list[str], whose: str) -> list[SourceView]:
    """Finds the views of another source of the same photographs.

    Args:
        second: The other source; views are paired by the stems of their names, or in natural order where no
            name agrees.
        names: B names of the views.
        whose: The other source's name, for messages.

    Returns:
        B views.

    Raises:
        InputError: Views that the other source lacks, or fewer than three.
    """
    if len(names) < FEWEST_SHARED:
        raise InputError(
            f"--rough_from {whose}: {len(names)} views; expected {FEWEST_SHARED} or more, to bring its frame "
            "to this one's"
        )
    by_stem = {mask_stem(Path(view.name)): view for view in second.views}
    stems = [mask_stem(Path(name)) for name in names]
    if any(stem in by_stem for stem in stems) and len(by_stem) == len(second.views):
        lacking = [name for name, stem in zip(names, stems, strict=True) if stem not in by_stem]
        if lacking:
            raise InputError(
                f"--rough_from {whose} has no camera for {', '.join(lacking[:8])} ({len(lacking)} of "
                f"{len(names)} views); expected one for each view: import without these photographs"
            )
        return [by_stem[stem] for stem in stems]
    if len(second.views) != len(names):
        raise InputError(
            f"--rough_from {whose}: {len(second.views)} cameras for {len(names)} views, and their names do "
            "not agree; expected one for each, of the same name or in the same natural order"
        )
    return list(second.views)
