"""Rough cameras (`cameras_linear_init.npz`) for training with `--train_cameras`.

B views. Poses are (4, 4) camera-to-world, world frame and unit of the imported scene.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import numpy as np

from idr.datasets.masks import mask_stem
from idr.errors import InputError
from idr.geometry.alignment import align_cameras
from idr.geometry.camera_set import disturb_poses
from idr.importers.source import Array, Source, SourceView

MIN_SHARED_VIEWS = 3
"""Views needed to determine the similarity between two frames."""


def check_roughness(degrees: float, fraction: float) -> None:
    """Raises `InputError` for a rotation or displacement out of range; see `disturbed_poses`."""
    if not 0 <= degrees <= 45 or not 0 <= fraction <= 0.5:
        raise InputError(
            f"--rough_degrees {degrees:g}, --rough_fraction {fraction:g}; expected 0 to 45 degrees and 0 to "
            "0.5"
        )


def disturbed_poses(poses: Array, center: Array, degrees: float, fraction: float, seed: int) -> Array:
    """Makes rough cameras by disturbing exact ones.

    Args:
        poses: (B, 4, 4) exact poses.
        center: (3,) the object's center.
        degrees: Mean rotation angle, about random axes; single cameras get 0.5 to 1.5 times as much.
        fraction: Mean displacement, in random directions, over the distance to `center`; single cameras get
            0.5 to 1.5 times as much.
        seed: Seed of the noise.

    Raises:
        InputError: `degrees` or `fraction` out of range.
    """
    check_roughness(degrees, fraction)
    offsets = poses[:, :3, 3] - center
    distances = np.linalg.norm(offsets, axis=1, keepdims=True)
    local = poses.copy()
    local[:, :3, 3] = offsets / distances
    rough = disturb_poses(local, degrees, fraction, np.random.default_rng(seed))
    rough[:, :3, 3] = rough[:, :3, 3] * distances + center
    return rough


def poses_from(views: list[SourceView], poses: Array) -> Array:
    """Returns another source's poses of the same photographs in the frame of the exact ones, (B, 4, 4)."""
    rough = np.stack([_pose(view) for view in views])
    fit = align_cameras(rough, poses)
    rough[:, :3, 3] = fit.scale * rough[:, :3, 3] @ fit.rotation.T + fit.translation
    rough[:, :3, :3] = fit.rotation @ rough[:, :3, :3]
    return rough


def describe(rough: Array, poses: Array, center: Array) -> str:
    """Returns a note: mean rotation error, and mean displacement over the distance from `center`."""
    traces = np.einsum("bij,bij->b", rough[:, :3, :3], poses[:, :3, :3])
    angle = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1))).mean()
    displacement = np.linalg.norm(rough[:, :3, 3] - poses[:, :3, 3], axis=1)
    share = (displacement / np.linalg.norm(poses[:, :3, 3] - center, axis=1)).mean()
    return (
        f"rough cameras in cameras_linear_init.npz: mean error {angle:.2f} degrees and {100 * share:.1f} % "
        "of the distance; train with --train_cameras"
    )


def _pose(view: SourceView) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = view.world_to_camera[:, :3].T
    pose[:3, 3] = -view.world_to_camera[:, :3].T @ view.world_to_camera[:, 3]
    return pose


def _stem(name: str) -> str:
    return mask_stem(Path(PureWindowsPath(name).name))  # of names with either separator


def paired_views(second: Source, names: list[str], label: str) -> list[SourceView]:
    """Pairs B views by name with those of another source of the same photographs, `label` in messages.

    They are paired by file stem, or in natural order if no stems agree.

    Raises:
        InputError: The other source lacks views, or there are fewer than `MIN_SHARED_VIEWS`.
    """
    if len(names) < MIN_SHARED_VIEWS:
        raise InputError(
            f"--rough_from {label}: {len(names)} views; expected {MIN_SHARED_VIEWS} or more, to align its "
            "frame with this one"
        )
    by_stem = {_stem(view.name): view for view in second.views}
    stems = [_stem(name) for name in names]
    if any(stem in by_stem for stem in stems) and len(by_stem) == len(second.views):
        missing = [name for name, stem in zip(names, stems, strict=True) if stem not in by_stem]
        if missing:
            raise InputError(
                f"--rough_from {label} has no camera for {', '.join(missing[:8])} ({len(missing)} of "
                f"{len(names)} views); expected one per view: import without these photographs"
            )
        return [by_stem[stem] for stem in stems]
    if len(second.views) != len(names):
        raise InputError(
            f"--rough_from {label}: {len(second.views)} cameras for {len(names)} views, and their names do "
            "not agree; expected one per view, with the same name or in the same natural order"
        )
    return list(second.views)
