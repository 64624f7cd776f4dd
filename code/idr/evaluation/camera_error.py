"""How far estimated cameras are from true ones, after the best similarity between the two frames.

B cameras. Poses are (4, 4) camera-to-world matrices, rotation R in the upper left corner and center C in the
last column. Predicted poses usually live in the unit sphere's frame, true ones in the world's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError

log = logging.getLogger(__name__)

MAX_SWEEPS = 20_000
"""Reweighted fits before giving up on convergence; typical data needs a few hundred."""

CONVERGED_STEP = 1e-13
"""A fit has converged when no center moves by more than this part of the true centers' extent."""

FLOOR_FIRST, FLOOR_LAST, FLOOR_FACTOR = 1e-2, 1e-12, 0.1
"""Smallest residual that a weight resolves, as parts of the true centers' extent, lowered in steps: a high
floor converges fast and coarsely, a low one exactly once it is near."""


@dataclass(frozen=True)
class Alignment:
    """A similarity x -> scale rotation x + translation from the predicted cameras' frame to the true one.

    Attributes:
        scale: Factor c; of any sign, 0 where all true centers coincide.
        rotation: (3, 3) proper rotation.
        translation: (3,) in the true frame's unit.
    """

    scale: float
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The (4, 4) matrix [scale rotation | translation] over a row (0, 0, 0, 1)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix


@dataclass(frozen=True)
class CameraErrors:
    """Errors of aligned cameras.

    Attributes:
        rotation_degrees: (B,) angle between true and aligned predicted rotation, 0 to 180.
        translation: (B,) distance between true and aligned predicted center, in the true frame's unit.
    """

    rotation_degrees: NDArray[np.float64]
    translation: NDArray[np.float64]


def align_cameras(poses_pred: NDArray[np.floating], poses_gt: NDArray[np.floating]) -> Alignment:
    """Finds the similarity that maps predicted cameras onto true ones.

    The rotation is the Procrustes solution over the cameras' rotations (determinant +1). With it fixed, scale
    and translation minimize the sum over cameras of the distance |C_gt - (c R C_pred + t)|: a sum of norms,
    not of squares, so that few bad cameras do not move the rest.

    Legal without a unique answer: predicted centers that coincide, one camera included, leave the scale open
    and get 1; with two cameras every t between the two optimal ones is as good and the middle is returned.
    True centers that coincide give the scale 0.

    Args:
        poses_pred: (B, 4, 4) predicted camera-to-world poses.
        poses_gt: (B, 4, 4) true ones, in the same order.

    Returns:
        The alignment, finite for all finite poses.

    Raises:
        InputError: The shapes differ or are not (B, 4, 4) with B > 0, or a value is not finite.
    """
    pred, truth = _checked_pair(poses_pred, poses_gt)
    correlation = np.einsum("bij,bkj->ik", truth[:, :3, :3], pred[:, :3, :3])  # sum of R_gt R_pred^T
    left, _, right = np.linalg.svd(correlation)
    handedness = np.sign(np.linalg.det(left @ right))
    rotation = left @ np.diag([1.0, 1.0, handedness]) @ right

    scale, translation = _fit_scale_translation(pred[:, :3, 3] @ rotation.T, truth[:, :3, 3])
    return Alignment(scale, rotation, translation)


def camera_errors(
    poses_pred: NDArray[np.floating], poses_gt: NDArray[np.floating], alignment: Alignment
) -> CameraErrors:
    """Measures predicted cameras, brought to the true frame, against true ones.

    Args:
        poses_pred: (B, 4, 4) predicted camera-to-world poses.
        poses_gt: (B, 4, 4) true ones, in the same order.
        alignment: What `align_cameras` returned.

    Returns:
        One rotation error and one center error a camera.

    Raises:
        InputError: The shapes differ or are not (B, 4, 4) with B > 0, or a value is not finite.
    """
    pred, truth = _checked_pair(poses_pred, poses_gt)
    aligned = alignment.rotation @ pred[:, :3, :3]
    relative = np.einsum("bji,bjk->bik", truth[:, :3, :3], aligned)  # R_gt^T R_opt R_pred
    # The angle by sine and cosine together: arccos((trace - 1)/2) alone loses all digits below 1e-6 degrees.
    twice_sine = np.stack(
        [relative[:, (i + 1) % 3, (i + 2) % 3] - relative[:, (i + 2) % 3, (i + 1) % 3] for i in range(3)],
        axis=-1,
    )
    twice_cosine = np.trace(relative, axis1=1, axis2=2) - 1.0
    angle = np.degrees(np.arctan2(np.linalg.norm(twice_sine, axis=-1), twice_cosine))

    centers = alignment.scale * pred[:, :3, 3] @ alignment.rotation.T + alignment.translation
    return CameraErrors(angle, np.linalg.norm(truth[:, :3, 3] - centers, axis=-1))


def mean_camera_errors(
    poses_pred: NDArray[np.floating], poses_gt: NDArray[np.floating]
) -> tuple[float, float]:
    """Aligns predicted cameras with true ones and returns the mean errors.

    Args:
        poses_pred: (B, 4, 4) predicted camera-to-world poses.
        poses_gt: (B, 4, 4) true ones, in the same order.

    Returns:
        Rotation error in degrees and center error in the true frame's unit.
    """
    errors = camera_errors(poses_pred, poses_gt, align_cameras(poses_pred, poses_gt))
    return float(errors.rotation_degrees.mean()), float(errors.translation.mean())


def format_camera_errors(errors: CameraErrors) -> str:
    """Writes the result line of the camera evaluation; its wording is read by users' scripts.

    Args:
        errors: What `camera_errors` returned.

    Returns:
        One line, two decimals: degrees for R, the true frame's unit for t.
    """
    rotation, translation = errors.rotation_degrees, errors.translation
    return (
        f"CAMERAS EVALUATION: R error mean = {np.mean(rotation):.2f} ; t error mean = "
        f"{np.mean(translation):.2f} ; R error median = {np.median(rotation):.2f} ; t error median = "
        f"{np.median(translation):.2f}"
    )


def _checked_pair(
    poses_pred: NDArray[np.floating], poses_gt: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sets of poses in float64, after a check of shapes and values."""
    pred, truth = np.asarray(poses_pred, dtype=np.float64), np.asarray(poses_gt, dtype=np.float64)
    for name, poses in (("predicted", pred), ("true", truth)):
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) == 0:
            raise InputError(
                f"{name} poses have shape {poses.shape}; expected (B, 4, 4) with at least one camera"
            )
        if not np.isfinite(poses).all():
            bad = np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))
            raise InputError(
                f"{name} poses {bad.tolist()} hold values that are not finite; the cameras are unusable"
            )
    if len(pred) != len(truth):
        raise InputError(f"{len(pred)} predicted but {len(truth)} true poses; expected one of each a camera")
    return pred, truth


def _fit_scale_translation(
    sources: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Minimizes sum_i |targets_i - (c sources_i + t)| over c and t by reweighted least squares.

    Each sweep solves the least squares problem with weights 1 / residual, which lowers the sum of norms.
    Residuals below a floor, itself lowered as the fit settles, count as the floor: points that the fit meets
    exactly keep a finite weight.
    """
    extent = float(np.linalg.norm(targets - targets.mean(axis=0), axis=-1).max())
    spread = float(np.linalg.norm(sources - sources.mean(axis=0), axis=-1).max())
    # Below rounding of the coordinates themselves, differences between centers mean nothing.
    scale_open = spread <= 1e-12 * float(np.abs(sources).max())
    if extent <= 1e-12 * float(np.abs(targets).max()):
        return (1.0, (targets - sources).mean(axis=0)) if scale_open else (0.0, targets.mean(axis=0))

    weights, floor = np.ones(len(sources)), FLOOR_FIRST
    before = np.full_like(targets, np.inf)
    for _ in range(MAX_SWEEPS):
        scale, translation = _weighted_fit(sources, targets, weights, scale_open)
        fitted = scale * sources + translation
        step = float(np.abs(fitted - before).max()) / extent
        if step <= max(CONVERGED_STEP, 1e-3 * floor):
            if floor <= FLOOR_LAST:
                return scale, translation
            floor = floor * FLOOR_FACTOR
        weights = 1.0 / np.maximum(np.linalg.norm(targets - fitted, axis=-1) / extent, floor)
        before = fitted
    log.warning(
        "camera alignment stopped after %d fits while centers still moved by %.1e", MAX_SWEEPS, step * extent
    )
    return scale, translation


def _weighted_fit(
    sources: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64], scale_open: bool
) -> tuple[float, NDArray[np.float64]]:
    """Minimizes sum_i weights_i |targets_i - (c sources_i + t)|^2; c = 1 where the data leave it open."""
    share = (weights / weights.sum())[:, None]
    source_mean, target_mean = (share * sources).sum(axis=0), (share * targets).sum(axis=0)
    if scale_open:
        return 1.0, target_mean - source_mean
    centered = sources - source_mean
    scale = float((share * centered * (targets - target_mean)).sum() / (share * centered**2).sum())
    return scale, target_mean - scale * source_mean
