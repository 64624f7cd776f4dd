"""The block ``train.schedule``: settings as functions of the fraction of training that is done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from idr.model.encodings.levels import leveled_encoding
from idr.training.config import TrainConfig
from idr.training.optimizers import initial_rates
from idr.training.schedule.by_epoch import settings_in
from idr.training.schedule.config import AlphaSchedule, LevelSchedule, PyramidSchedule, RateSchedule
from idr.training.schedule.settings import StepSettings


class Schedule:
    """Settings as a function of epoch and step; what the block leaves out follows the published milestones.

    Args:
        config: The block ``train``.
        num_epochs: Epochs of the run: the schedule's length unless the conf gives it in steps.
        steps_per_epoch: Steps of each.
        alpha: The loss's alpha at the start.
        model: The seam of `IDRNetwork`; its encodings have the levels that are opened.
    """

    def __init__(
        self, config: TrainConfig, num_epochs: int, steps_per_epoch: int, alpha: float, model: Any
    ) -> None:
        self.config, self.block, self.alpha = config, config.schedule, alpha
        self.steps_per_epoch = steps_per_epoch
        self.length = self.block.steps or max(num_epochs * steps_per_epoch, 1)
        self.levels = {
            network: leveled_encoding(model, network, opening.start).levels
            for network, opening in self.block.openings.items()
        }

    def time(self, epoch: int, step: int) -> float:
        """Returns the fraction of the schedule, at most 1, that is done when a step begins."""
        return min((epoch * self.steps_per_epoch + step) / self.length, 1.0)

    def at(self, epoch: int, step: int) -> StepSettings:
        """Returns the settings of a step; epochs, and the steps of each, are counted from 0."""
        time, block = self.time(epoch, step), self.block
        settings = settings_in(epoch, self.config, self.alpha)
        if block.learning_rate is not None:
            factor = rate_factor(time, 1 / self.length, block.learning_rate)
            rates = {name: rate * factor for name, rate in initial_rates(self.config).items()}
            settings = replace(settings, learning_rates=rates)
        if block.learning_rate_cam is not None:
            factor = rate_factor(time, 1 / self.length, block.learning_rate_cam)
            settings = replace(
                settings,
                camera_learning_rate=settings.camera_learning_rate * factor,
                intrinsics_learning_rate=settings.intrinsics_learning_rate * factor,
            )
        if block.alpha is not None:
            settings = replace(settings, alpha=alpha_in(time, self.alpha, block.alpha))
        levels = {
            network: open_levels_in(time, self.levels[network], opening)
            for network, opening in block.openings.items()
        }
        return replace(
            settings,
            centers_frozen=time < self.config.cameras.freeze_centers_until,
            open_levels=levels,
            image_reduction=1 if block.pyramid is None else reduction_in(time, block.pyramid),
            time=time,
        )


def progress_in(time: float, begin: float, end: float) -> float:
    """Returns the fraction of [begin, end] elapsed at `time`, clamped to [0, 1]."""
    if time >= end:
        return 1.0
    return (time - begin) / (end - begin) if time > begin else 0.0


def rate_factor(time: float, step_length: float, schedule: RateSchedule) -> float:
    """Returns the factor on a learning rate.

    Args:
        time: Fraction of the schedule that is done when the step begins.
        step_length: Fraction of the schedule that a step takes. A warm-up counts the present step as done,
            so that the first step is not lost.
        schedule: The block.
    """
    if time < schedule.warmup:
        return min((time + step_length) / schedule.warmup, 1.0)
    decayed = progress_in(time, max(schedule.warmup, schedule.hold), 1.0)
    if schedule.decay == "none":
        return 1.0
    if schedule.decay == "exponential":
        return schedule.final**decayed
    return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * decayed)) / 2


def alpha_in(time: float, first: float, schedule: AlphaSchedule) -> float:
    """Returns alpha, which grows exponentially from its first value."""
    return first * (schedule.final / first) ** progress_in(time, schedule.begin, schedule.end)


def open_levels_in(time: float, levels: int, schedule: LevelSchedule) -> float:
    """Returns how many of an encoding's levels are open."""
    return schedule.start + (levels - schedule.start) * progress_in(time, schedule.begin, schedule.end)


def reduction_in(time: float, schedule: PyramidSchedule) -> int:
    """Returns the factor by which images are reduced; 1 for full resolution."""
    pairs = zip(schedule.factors, schedule.until, strict=True)
    return next((factor for factor, until in pairs if time < until), 1)
