"""What one training step is done with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepSettings:
    """The settings of one training step.

    Attributes:
        learning_rates: Adam's learning rate by parameter group of the model.
        alpha: Sharpness of the mask loss.
        camera_learning_rate: Learning rate of the poses.
        intrinsics_learning_rate: Learning rate of the intrinsics.
        cameras_frozen: Whether the cameras' optimizers skip the step.
        centers_frozen: Whether only the rotations of `OrbitPoses` are trained.
        open_levels: Number of open levels by network of the model; networks that are missing keep theirs.
        image_reduction: Factor by which images are reduced; 1 for full resolution.
        time: Fraction of the schedule that is done when the step begins.
    """

    learning_rates: Mapping[str, float]
    alpha: float
    camera_learning_rate: float = 0.0
    intrinsics_learning_rate: float = 0.0
    cameras_frozen: bool = True
    centers_frozen: bool = False
    open_levels: Mapping[str, float] = field(default_factory=dict)
    image_reduction: int = 1
    time: float = 0.0
