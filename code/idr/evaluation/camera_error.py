"""Errors of estimated cameras after alignment with the true ones.

B cameras; see `idr.geometry.alignment`. Predicted poses are its source, true poses its target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idr.geometry.alignment import Alignment, align_cameras, checked_pair


@dataclass(frozen=True)
class CameraErrors:
    """Errors of aligned cameras.

    Attributes:
        rotation_degrees: (B,) angle between the true and the aligned predicted rotation, 0 to 180.
        translation: (B,) distance between the true and the aligned predicted center, world units.
    """

    rotation_degrees: NDArray[np.float64]
    translation: NDArray[np.float64]


def camera_errors(
    poses_pred: NDArray[np.floating], poses_gt: NDArray[np.floating], alignment: Alignment
) -> CameraErrors:
    """Returns the errors of predicted cameras mapped by an alignment, for (B, 4, 4) poses in the same order.

    Raises:
        InputError: The shapes differ, are not (B, 4, 4) with B > 0, or a value is not finite.
    """
    pred, truth = checked_pair(poses_pred, poses_gt)
    aligned = alignment.rotation @ pred[:, :3, :3]
    relative = np.einsum("bji,bjk->bik", truth[:, :3, :3], aligned)  # R_gt^T R_opt R_pred
    # The angle from sine and cosine: arccos((trace - 1) / 2) alone loses all digits below 1e-6 degrees.
    skew = relative - relative.transpose(0, 2, 1)
    twice_sine = np.stack((skew[:, 1, 2], skew[:, 2, 0], skew[:, 0, 1]), axis=-1)
    twice_cosine = np.trace(relative, axis1=1, axis2=2) - 1.0
    angle = np.degrees(np.arctan2(np.linalg.norm(twice_sine, axis=-1), twice_cosine))

    centers = alignment.scale * pred[:, :3, 3] @ alignment.rotation.T + alignment.translation
    return CameraErrors(angle, np.linalg.norm(truth[:, :3, 3] - centers, axis=-1))


def mean_camera_errors(pred: NDArray[np.floating], truth: NDArray[np.floating]) -> tuple[float, float]:
    """Returns the mean rotation error (degrees) and center error (world units) after alignment."""
    errors = camera_errors(pred, truth, align_cameras(pred, truth))
    return float(errors.rotation_degrees.mean()), float(errors.translation.mean())


def format_camera_errors(errors: CameraErrors) -> str:
    """Returns the published result line; users' scripts parse its wording."""
    means = [np.mean(values) for values in (errors.rotation_degrees, errors.translation)]
    medians = [np.median(values) for values in (errors.rotation_degrees, errors.translation)]
    return (
        f"CAMERAS EVALUATION: R error mean = {means[0]:.2f} ; t error mean = {means[1]:.2f} ; "
        f"R error median = {medians[0]:.2f} ; t error median = {medians[1]:.2f}"
    )
