"""The published schedules: learning rates and alpha change at milestones, which are epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from idr.checkpoints.schema import Kind, check, flag, optional, real, table, whole
from idr.training.config import TrainConfig
from idr.training.optimizers import initial_rates
from idr.training.schedule.settings import StepSettings


def settings_in(epoch: int, config: TrainConfig, alpha: float) -> StepSettings:
    """Returns the settings of an epoch; `alpha` is that of the first one."""
    camera_rate = camera_learning_rate_at(epoch, config)
    intrinsics_rate, own = camera_rate, config.cameras.learning_rate_intrinsics
    if own is not None and config.learning_rate_cam:  # with the poses' warm-up and milestones
        intrinsics_rate = camera_rate * own / config.learning_rate_cam
    rates = initial_rates(config)
    return StepSettings(
        learning_rates={name: learning_rate_at(epoch, config, rate) for name, rate in rates.items()},
        alpha=alpha_at(epoch, alpha, config),
        camera_learning_rate=camera_rate,
        intrinsics_learning_rate=intrinsics_rate,
        cameras_frozen=camera_rate == 0,
    )


def milestones_passed(epoch: int, milestones: Sequence[int]) -> int:
    """Counts the milestones at or before an epoch."""
    return sum(milestone <= epoch for milestone in milestones)


def alpha_at(epoch: int, alpha: float, config: TrainConfig) -> float:
    """Returns alpha in an epoch: its first value times `alpha_factor` for each milestone passed."""
    return alpha * config.alpha_factor ** milestones_passed(epoch, config.alpha_milestones)


def learning_rate_at(epoch: int, config: TrainConfig, start: float | None = None) -> float:
    """Returns Adam's learning rate in an epoch, rounded as `MultiStepLR` rounds it.

    `start` is the learning rate in the first epoch; None for the conf's.
    """
    rate = config.learning_rate if start is None else start
    for milestone, count in sorted(Counter(rate_milestones(config)).items()):
        if milestone <= epoch:
            rate *= config.sched_factor**count
    return rate


def rate_milestones(config: TrainConfig) -> tuple[int, ...]:
    """Returns the milestones of Adam's learning rate; none if ``schedule.learning_rate`` replaces them."""
    return config.sched_milestones if config.schedule.learning_rate is None else ()


def camera_learning_rate_at(epoch: int, config: TrainConfig) -> float:
    """Returns the poses' learning rate in an epoch; 0 while they are frozen."""
    if config.learning_rate_cam is None or epoch < config.cam_warmup_epochs:
        return 0.0
    passed = milestones_passed(epoch, config.cam_sched_milestones)
    return config.learning_rate_cam * config.cam_sched_factor**passed


def scheduler_state(config: TrainConfig, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the state of the `MultiStepLR` of the published code after `epoch` epochs."""
    groups = [{"params": [torch.zeros(1)], "lr": group["initial_lr"]} for group in optimizer.param_groups]
    published = torch.optim.lr_scheduler.MultiStepLR(
        torch.optim.SGD(groups), list(rate_milestones(config)), gamma=config.sched_factor
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    return {**published.state_dict(), "last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": rates}


def _is_counter(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(whole().fits, (*value.keys(), *value.values())))


def _is_rates(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(real(0).fits, value))


_SCHEDULER_STATE = {
    "milestones": Kind("a dictionary of whole numbers", _is_counter),
    "gamma": real(0),
    "base_lrs": Kind("a list of numbers of at least 0", _is_rates),
    "last_epoch": whole(),
    "_step_count": optional(whole()),
    "_last_lr": optional(Kind("a list of numbers of at least 0", _is_rates)),
    "_is_initial": optional(flag()),
    "_get_lr_called_within_step": optional(flag()),
}


def check_scheduler_state(saved: Any, where: str) -> None:
    """Checks the part ``SchedulerParameters``, which follows from the conf and is not needed to continue.

    Raises:
        InputError: It is not the state of a `MultiStepLR`.
    """
    check(saved, {"scheduler_state_dict": table(_SCHEDULER_STATE)}, where, "SchedulerParameters")
