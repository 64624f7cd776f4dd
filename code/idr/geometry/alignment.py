"""Alignment of two sets of cameras by a similarity (supplementary material, evaluation of trained cameras).

B cameras. Poses are (B, 4, 4) camera-to-world matrices with rotation R and center C. The source poses usually
live in the unit sphere's frame, the target poses in the world's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

MAX_ITERATIONS = 20_000
"""Most reweighted fits; typical data needs a few hundred."""

CONVERGED_STEP = 1e-13
"""The fit has converged when no center moves by more than this fraction of the target centers' extent."""

FIRST_FLOOR, LAST_FLOOR, FLOOR_FACTOR = 1e-2, 1e-12, 0.1
"""Smallest residual that a weight resolves, as a fraction of the target centers' extent. It is lowered in
stages: a high floor converges fast but coarsely, a low floor is exact once the fit is close."""


@dataclass(frozen=True)
class Alignment:
    """The similarity x -> scale rotation x + translation from the source frame to the target frame.

    Attributes:
        scale: Factor c; may be negative, and is 0 if all target centers coincide.
        rotation: (3, 3) rotation matrix with determinant +1.
        translation: (3,) in target units.
    """

    scale: float
    rotation: Array
    translation: Array

    @property
    def matrix(self) -> Array:
        """(4, 4) homogeneous matrix."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def poses_to_source(self, poses: Array) -> Array:
        """Maps (B, 4, 4) camera-to-world poses from the target frame to the source frame."""
        poses = np.array(poses, dtype=np.float64)
        poses[:, :3, :3] = self.rotation.T @ poses[:, :3, :3]
        poses[:, :3, 3] = (poses[:, :3, 3] - self.translation) @ self.rotation / self.scale
        return poses


def align_cameras(source_poses: NDArray[np.floating], target_poses: NDArray[np.floating]) -> Alignment:
    """Returns the similarity that maps the source cameras onto the target cameras.

    The rotation is the orthogonal Procrustes solution over the camera rotations. With it fixed, scale and
    translation minimize sum_i |C_target_i - (c R C_source_i + t)|. This is a sum of norms, not of squares, so
    a few bad cameras do not move the others.

    Degenerate cases: if the source centers coincide (or there is one camera), the scale is undetermined and
    set to 1. With two cameras, every t between the two optima is equally good and the midpoint is returned.
    If the target centers coincide, the scale is 0.

    Raises:
        InputError: The shapes differ, are not (B, 4, 4) with B > 0, or a value is not finite.
    """
    source, target = checked_pair(source_poses, target_poses)
    correlation = np.einsum("bij,bkj->ik", target[:, :3, :3], source[:, :3, :3])  # sum of R_target R_source^T
    left, _, right = np.linalg.svd(correlation)
    handedness = np.sign(np.linalg.det(left @ right))
    rotation = left @ np.diag([1.0, 1.0, handedness]) @ right

    scale, translation = _fit_scale_translation(source[:, :3, 3] @ rotation.T, target[:, :3, 3])
    return Alignment(scale, rotation, translation)


def rotation_of(similarity: Array) -> Array:
    """Returns the rotation, (3, 3), of a similarity, (4, 4), without its scale."""
    return similarity[:3, :3] / np.cbrt(np.linalg.det(similarity[:3, :3]))


def fit_similarity(source: Array, target: Array) -> Alignment:
    """Returns the similarity that maps points (N, 3) onto points (N, 3) with the least squared distances.

    The closed form of Umeyama (1991), with a positive scale and no reflection. The source points must not
    coincide; if they lie on a line, one of the best rotations is returned.
    """
    centered, centered_target = source - source.mean(axis=0), target - target.mean(axis=0)
    left, values, right = np.linalg.svd(centered_target.T @ centered)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left * signs @ right
    scale = float(values @ signs / (centered**2).sum())
    return Alignment(scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0))


def checked_pair(
    source_poses: NDArray[np.floating], target_poses: NDArray[np.floating]
) -> tuple[Array, Array]:
    """Returns both sets of poses as float64 after checking shapes and values; see `align_cameras`."""
    source, target = np.asarray(source_poses, dtype=np.float64), np.asarray(target_poses, dtype=np.float64)
    for name, poses in (("predicted", source), ("true", target)):
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) == 0:
            raise InputError(
                f"{name} poses have shape {poses.shape}; expected (B, 4, 4) with at least one camera"
            )
        bad = np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))
        if len(bad):
            raise InputError(
                f"{name} poses {bad.tolist()} hold values that are not finite; the cameras are unusable"
            )
    if len(source) != len(target):
        raise InputError(
            f"{len(source)} predicted but {len(target)} true poses; expected one of each per camera"
        )
    return source, target


def _fit_scale_translation(sources: Array, targets: Array) -> tuple[float, Array]:
    """Minimizes sum_i |targets_i - (c sources_i + t)| over c and t by reweighted least squares.

    Each iteration solves the least-squares problem with weights 1 / residual, which lowers the sum of norms.
    Residuals below a floor count as the floor, so that points fitted exactly keep a finite weight.
    """
    extent = float(np.linalg.norm(targets - targets.mean(axis=0), axis=-1).max())
    spread = float(np.linalg.norm(sources - sources.mean(axis=0), axis=-1).max())
    # Differences between centers below the rounding of the coordinates carry no information.
    scale_is_free = spread <= 1e-12 * float(np.abs(sources).max())
    if extent <= 1e-12 * float(np.abs(targets).max()):
        return (1.0, (targets - sources).mean(axis=0)) if scale_is_free else (0.0, targets.mean(axis=0))

    weights, floor = np.ones(len(sources)), FIRST_FLOOR
    before = np.full_like(targets, np.inf)
    for _ in range(MAX_ITERATIONS):
        scale, translation = _weighted_fit(sources, targets, weights, scale_is_free)
        fitted = scale * sources + translation
        step = float(np.abs(fitted - before).max()) / extent
        if step <= max(CONVERGED_STEP, 1e-3 * floor):
            if floor <= LAST_FLOOR:
                return scale, translation
            floor = floor * FLOOR_FACTOR
        weights = 1.0 / np.maximum(np.linalg.norm(targets - fitted, axis=-1) / extent, floor)
        before = fitted
    words = "camera alignment stopped after %d fits while centers still moved by %.1e"
    log.warning(words, MAX_ITERATIONS, step * extent)
    return scale, translation


def _weighted_fit(sources: Array, targets: Array, weights: Array, fix_scale: bool) -> tuple[float, Array]:
    """Minimizes sum_i weights_i |targets_i - (c sources_i + t)|^2; c = 1 if `fix_scale`."""
    share = (weights / weights.sum())[:, None]
    source_mean, target_mean = (share * sources).sum(axis=0), (share * targets).sum(axis=0)
    if fix_scale:
        return 1.0, target_mean - source_mean
    centered = sources - source_mean
    scale = float((share * centered * (targets - target_mean)).sum() / (share * centered**2).sum())
    return scale, target_mean - scale * source_mean
