"""The block ``train.schedule``: what changes from step to step, beside the published milestones of epochs.

All times are fractions of the schedule's length, 0 at the first step and 1 after the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from idr.errors import InputError

LARGEST_REDUCTION = 16


def _check_fraction(name: str, value: float, above: float = 0.0) -> None:
    if not above <= value <= 1:
        raise InputError(f"{name} = {value}: expected a fraction of the schedule, {above:g} to 1")


@dataclass(frozen=True)
class RateSchedule:
    """Keys of ``learning_rate`` and ``learning_rate_cam``: a factor on a step size.

    Attributes:
        decay: How the factor falls from 1 to `final`: ``cosine``, ``exponential`` or ``none``.
        warmup: Until when it rises from 0 to 1, linearly.
        hold: Until when it stays 1; the fall begins at the later of the two.
        final: What it is at the end and after it.
    """

    decay: Literal["cosine", "exponential", "none"] = "cosine"
    warmup: float = 0.0
    hold: float = 0.0
    final: float = 0.1

    def __post_init__(self) -> None:
        _check_fraction("warmup", self.warmup)
        _check_fraction("hold", self.hold)
        if not 0 <= self.final <= 1:
            raise InputError(f"final = {self.final}: expected a factor of 0 to 1")
        if self.decay == "exponential" and self.final == 0:
            raise InputError("final = 0: an exponential never gets there; expected a factor above 0")


@dataclass(frozen=True)
class AlphaSchedule:
    """Keys of ``alpha``: the mask loss's sharpness grows exponentially from ``loss.alpha`` on.

    Attributes:
        final: What it is in the end.
        begin: When it begins to grow.
        end: When it is there.
    """

    final: float
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_span(self.begin, self.end)
        if self.final <= 0:
            raise InputError(f"final = {self.final}: expected a sharpness above 0")


@dataclass(frozen=True)
class LevelSchedule:
    """Keys of ``levels`` and ``color_levels``: an encoding's levels open from coarse to fine.

    The last open one opens smoothly.

    Attributes:
        start: Levels open at first; not whole where the last of them is partly open.
        begin: When the next one begins to open.
        end: When all are open.
    """

    start: float
    begin: float = 0.0
    end: float = 0.5

    def __post_init__(self) -> None:
        _check_span(self.begin, self.end)
        if self.start < 0:
            raise InputError(f"start = {self.start}: expected 0 or more levels")


@dataclass(frozen=True)
class PyramidSchedule:
    """Keys of ``pyramid``: early steps train on reduced images, see `idr.training.rays.pyramid`.

    Attributes:
        factors: Pixels along a block's side, the largest first, such as [4, 2].
        until: For each factor the time when the next one takes its place, in the end the images as they are.
    """

    factors: tuple[int, ...]
    until: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.until) or not self.factors:
            raise InputError(
                f"until = {list(self.until)}: expected one time for each of factors = {list(self.factors)}"
            )
        falls = all(one > two for one, two in zip(self.factors, self.factors[1:], strict=False))
        if not falls or not 2 <= self.factors[-1] <= self.factors[0] <= LARGEST_REDUCTION:
            raise InputError(
                f"factors = {list(self.factors)}: expected whole numbers from {LARGEST_REDUCTION} down to 2, "
                "each smaller than the one before, such as [4, 2]"
            )
        for time in self.until:
            _check_fraction("until", time)
        if list(self.until) != sorted(self.until):
            raise InputError(f"until = {list(self.until)}: expected times in order")


@dataclass(frozen=True)
class PartConfig:
    """Keys of one part of the model: how Adam treats its parameters.

    Attributes:
        factor: On ``train.learning_rate``, whatever schedule that follows.
        betas: Adam's decay rates of the means of gradients and of their squares.
        eps: Adam's addend to the denominator.
    """

    factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise InputError(f"factor = {self.factor}: expected a factor above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas = {list(self.betas)}: expected two numbers from 0 to below 1")
        if self.eps < 0:
            raise InputError(f"eps = {self.eps}: expected 0 or more")


@dataclass(frozen=True)
class PartsConfig:
    """Keys of ``parts``: parts of the model with a step size of their own; the others keep the published.

    Attributes:
        encoding: The encoding of points, ``implicit_network.encoding``.
        color_encoding: The encoding of points for colors, ``rendering_network.encoding``.
        implicit_network: What else there is of the implicit network.
        rendering_network: What else there is of the rendering network.
    """

    encoding: PartConfig | None = None
    color_encoding: PartConfig | None = None
    implicit_network: PartConfig | None = None
    rendering_network: PartConfig | None = None

    def given(self) -> dict[str, PartConfig]:
        """Returns the parts that the conf names, the most special first."""
        named = {key.name: getattr(self, key.name) for key in fields(self)}
        return {name: part for name, part in named.items() if part is not None}


@dataclass(frozen=True)
class ScheduleConfig:
    """Keys of the block ``train.schedule``; what is absent stays as published.

    Attributes:
        steps: The schedule's length in optimization steps; after it all stays as it is in the end. Absent:
            all steps of ``--nepoch``, so that a run which goes on with another ``--nepoch`` changes course.
        learning_rate: Factor on the model's step sizes, in place of ``train.sched_milestones``.
        learning_rate_cam: Factor on the cameras' step sizes, beside their milestones.
        alpha: In place of ``train.alpha_milestones``.
        levels: Opens the levels of ``model.implicit_network.encoding``; absent, all are open.
        color_levels: Opens those of ``model.rendering_network.encoding`` alike.
        pyramid: Reduces the images at first.
        parts: Step sizes by part of the model.
    """

    steps: int | None = None
    learning_rate: RateSchedule | None = None
    learning_rate_cam: RateSchedule | None = None
    alpha: AlphaSchedule | None = None
    levels: LevelSchedule | None = None
    color_levels: LevelSchedule | None = None
    pyramid: PyramidSchedule | None = None
    parts: PartsConfig = field(default_factory=PartsConfig)

    @property
    def openings(self) -> dict[str, LevelSchedule]:
        """The schedules of levels that there are, by the network whose encoding they open."""
        both = {"implicit_network": self.levels, "rendering_network": self.color_levels}
        return {network: schedule for network, schedule in both.items() if schedule is not None}

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps = {self.steps}: expected 1 or more optimization steps")


def _check_span(begin: float, end: float) -> None:
    _check_fraction("begin", begin)
    _check_fraction("end", end)
    if end < begin:
        raise InputError(f"end = {end}: expected no time before begin = {begin}")
