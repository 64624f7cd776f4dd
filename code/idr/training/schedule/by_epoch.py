"""Schedules as functions of the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from idr.training.config import TrainConfig


def steps_passed(epoch: int, milestones: Sequence[int]) -> int:
    """Counts the milestones at or before an epoch."""
    return sum(milestone <= epoch for milestone in milestones)


def alpha_at(epoch: int, alpha: float, config: TrainConfig) -> float:
    """Returns the mask loss's alpha in an epoch, grown from its first value at each milestone."""
    return alpha * config.alpha_factor ** steps_passed(epoch, config.alpha_milestones)


def learning_rate_at(epoch: int, config: TrainConfig, start: float | None = None) -> float:
    """Returns Adam's step size in an epoch, multiplied milestone by milestone as `MultiStepLR` does it.

    Args:
        epoch: The epoch.
        config: Gives milestones and factor.
        start: The step size at the run's start; None for the conf's.
    """
    rate = config.learning_rate if start is None else start
    for milestone, times in sorted(Counter(rate_milestones(config)).items()):
        if milestone <= epoch:
            rate *= config.sched_factor**times
    return rate


def rate_milestones(config: TrainConfig) -> tuple[int, ...]:
    """Returns the milestones of Adam's step size; none where ``schedule.learning_rate`` takes their place."""
    return config.sched_milestones if config.schedule.learning_rate is None else ()


def camera_learning_rate_at(epoch: int, config: TrainConfig) -> float:
    """Returns the poses' step size in an epoch; 0 while they are held."""
    if config.learning_rate_cam is None or epoch < config.cam_warmup_epochs:
        return 0.0
    return config.learning_rate_cam * config.cam_sched_factor ** steps_passed(
        epoch, config.cam_sched_milestones
    )


def intrinsics_learning_rate_at(epoch: int, config: TrainConfig) -> float:
    """Returns the intrinsics' step size in an epoch: their own, on the poses' warm-up and schedule."""
    poses = camera_learning_rate_at(epoch, config)
    own = config.cameras.learning_rate_intrinsics
    return poses if own is None or not config.learning_rate_cam else poses * own / config.learning_rate_cam
