"""What a step is trained with, as functions of its number: step sizes, alpha, open levels, image reduction.

The published schedules, which count epochs, stand in `idr.training.schedule.by_epoch`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from idr.model.encodings.levels import leveled_encoding, open_levels
from idr.training.cameras.poses import OrbitPoses
from idr.training.schedule.by_epoch import camera_learning_rate_at, intrinsics_learning_rate_at
from idr.training.schedule.config import AlphaSchedule, LevelSchedule, PyramidSchedule, RateSchedule

if TYPE_CHECKING:
    from idr.training.config import TrainConfig
    from idr.training.state import TrainingState


def progress_in(time: float, begin: float, end: float) -> float:
    """Returns how much of a span of time is over, 0 before to 1 after it; a span of no length is a jump."""
    if time >= end:
        return 1.0
    return (time - begin) / (end - begin) if time > begin else 0.0


def rate_factor(time: float, step_length: float, schedule: RateSchedule) -> float:
    """Returns the factor on a step size.

    Args:
        time: When the step begins, a fraction of the schedule.
        step_length: What a step takes of the schedule. A warm-up counts the step under way as done, so that
            the first step moves.
        schedule: The block.
    """
    if time < schedule.warmup:
        return min((time + step_length) / schedule.warmup, 1.0)
    fallen = progress_in(time, max(schedule.warmup, schedule.hold), 1.0)
    if schedule.decay == "none":
        return 1.0
    if schedule.decay == "exponential":
        return schedule.final**fallen
    return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * fallen)) / 2


def alpha_in(time: float, first: float, schedule: AlphaSchedule) -> float:
    """Returns the mask loss's alpha, which grows by the same factor in equal times."""
    return first * (schedule.final / first) ** progress_in(time, schedule.begin, schedule.end)


def open_levels_in(time: float, levels: int, schedule: LevelSchedule) -> float:
    """Returns how many of an encoding's levels are open."""
    return schedule.start + (levels - schedule.start) * progress_in(time, schedule.begin, schedule.end)


def reduction_in(time: float, schedule: PyramidSchedule) -> int:
    """Returns the factor by which images are reduced; 1 for the images as they are."""
    pairs = zip(schedule.factors, schedule.until, strict=True)
    return next((factor for factor, until in pairs if time < until), 1)


class StepSchedule:
    """The block ``train.schedule`` of one run.

    Steps are counted through all epochs: epoch times steps an epoch, plus the epoch's steps before.

    Args:
        config: The block ``train``.
        num_epochs: Epochs of the run; they give the schedule's length where the conf does not.
        steps_per_epoch: Steps of an epoch.
    """

    def __init__(self, config: TrainConfig, num_epochs: int, steps_per_epoch: int) -> None:
        self.config, self.block = config, config.schedule
        self.steps_per_epoch = steps_per_epoch
        self.length = self.block.steps or max(num_epochs * steps_per_epoch, 1)

    def time(self, epoch: int, step: int) -> float:
        """Returns when a step begins, as a fraction of the schedule, at most 1."""
        return min((epoch * self.steps_per_epoch + step) / self.length, 1.0)

    def reduction(self, epoch: int, step: int) -> int:
        """Returns the factor by which a step's images are reduced."""
        pyramid = self.block.pyramid
        return 1 if pyramid is None else reduction_in(self.time(epoch, step), pyramid)

    def apply(self, epoch: int, step: int, state: TrainingState, loss: Any, first_alpha: float) -> None:
        """Sets step sizes, alpha and open levels for a step.

        Args:
            epoch: The step's epoch.
            step: Its number there.
            state: Its optimizers and its model are set; what the block says nothing of stays.
            loss: Its ``alpha`` is set.
            first_alpha: Alpha at the run's start.
        """
        time = self.time(epoch, step)
        if self.block.learning_rate is not None:
            factor = rate_factor(time, 1 / self.length, self.block.learning_rate)
            for group in state.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        self._set_camera_rates(epoch, time, state)
        if isinstance(state.poses, OrbitPoses):
            state.poses.centers_held = time < self.config.cameras.hold_centers
        if self.block.alpha is not None:
            loss.alpha = alpha_in(time, first_alpha, self.block.alpha)
        self.open_levels(epoch, step, state.model)

    def open_levels(self, epoch: int, step: int, model: Any) -> None:
        """Opens the levels of a model's encodings that a step trains."""
        for network, schedule in self.block.openings.items():
            encoding = leveled_encoding(model, network, schedule.start)
            encoding.set_open_levels(open_levels_in(self.time(epoch, step), encoding.levels, schedule))

    def report(self, epoch: int, step: int, model: Any) -> dict[str, float]:
        """Returns further numbers of an epoch for ``metrics.csv``, those of its last step.

        Args:
            epoch: The epoch.
            step: The step's number there.
            model: Its encodings tell the open levels.
        """
        numbers: dict[str, float] = open_levels(model, self.block.openings)
        if self.block.pyramid is not None:
            numbers["image_reduction"] = self.reduction(epoch, step)
        return numbers

    def _set_camera_rates(self, epoch: int, time: float, state: TrainingState) -> None:
        schedule = self.block.learning_rate_cam
        factor = 1.0 if schedule is None else rate_factor(time, 1 / self.length, schedule)
        for optimizer in state.camera_optimizers:
            is_of_poses = optimizer is state.optimizer_cam
            rate_at = camera_learning_rate_at if is_of_poses else intrinsics_learning_rate_at
            for group in optimizer.param_groups:
                group["lr"] = rate_at(epoch, self.config) * factor
