"""The block ``train.schedule``: settings that change from step to step.

All times are fractions of the schedule's length, 0 at the first step and 1 after the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from idr.errors import InputError

LARGEST_REDUCTION = 16


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} = {value}: expected a fraction of the schedule, 0 to 1")


def _check_span(begin: float, end: float) -> None:
    _check_fraction("begin", begin)
    _check_fraction("end", end)
    if end < begin:
        raise InputError(f"end = {end}: expected no time before begin = {begin}")


@dataclass(frozen=True)
class RateSchedule:
    """Keys of ``learning_rate`` and ``learning_rate_cam``: a factor on a learning rate.

    Attributes:
        decay: Decay of the factor from 1 to `final`: ``cosine``, ``exponential`` or ``none``.
        warmup: End of the linear warm-up from 0 to 1.
        hold: Time until which the factor stays 1; the decay begins at the later of `warmup` and `hold`.
        final: The factor at the end.
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
            raise InputError("final = 0: an exponential decay never reaches it; expected a factor above 0")


@dataclass(frozen=True)
class AlphaSchedule:
    """Keys of ``alpha``: the mask loss's sharpness grows exponentially from ``loss.alpha`` to `final`.

    Attributes:
        final: Its value at the end.
        begin: Time when it begins to grow.
        end: Time when it reaches `final`.
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
    """Keys of ``levels`` and ``color_levels``: an encoding's levels open smoothly from coarse to fine.

    Attributes:
        start: Number of levels open at the start; of a fractional number, the last level is partly open.
        begin: Time when the next level begins to open.
        end: Time when all levels are open.
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
        factors: Factors by which images are reduced, the largest first, such as [4, 2].
        until: Time when each factor ends; after the last one images have full resolution.
    """

    factors: tuple[int, ...]
    until: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.until) or not self.factors:
            raise InputError(
                f"until = {list(self.until)}: expected one time for each of factors = {list(self.factors)}"
            )
        falls = list(self.factors) == sorted(set(self.factors), reverse=True)
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
class ParamGroupConfig:
    """Keys of one parameter group: Adam's settings for it.

    Attributes:
        factor: Factor on ``train.learning_rate``, on top of any schedule.
        betas: Adam's decay rates of the means of gradients and of their squares.
        eps: Adam's constant in the denominator.
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
class ParamGroupsConfig:
    """Keys of ``param_groups``: Adam's settings by parameter group; other parameters keep the published ones.

    Attributes:
        encoding: The encoding of points, ``implicit_network.encoding``.
        color_encoding: The encoding of points for colors, ``rendering_network.encoding``.
        implicit_network: The rest of the implicit network.
        rendering_network: The rest of the rendering network.
    """

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"colour_encoding": "color_encoding"}

    encoding: ParamGroupConfig | None = None
    color_encoding: ParamGroupConfig | None = None
    implicit_network: ParamGroupConfig | None = None
    rendering_network: ParamGroupConfig | None = None

    def named(self) -> dict[str, ParamGroupConfig]:
        """Returns the groups that the conf names, the most specific first."""
        groups = {key.name: getattr(self, key.name) for key in fields(self)}
        return {name: group for name, group in groups.items() if group is not None}


@dataclass(frozen=True)
class ScheduleConfig:
    """Keys of the block ``train.schedule``; absent keys leave the published schedules.

    Attributes:
        steps: Length of the schedule in steps, after which the settings stay constant. Absent: all steps of
            ``--nepoch``, so continuing with another ``--nepoch`` changes the schedule.
        learning_rate: Factor on the model's learning rates; replaces ``train.sched_milestones``.
        learning_rate_cam: Factor on the cameras' learning rates, on top of their milestones.
        alpha: Replaces ``train.alpha_milestones``.
        levels: Opens the levels of ``model.implicit_network.encoding``; absent, all are open.
        color_levels: Opens those of ``model.rendering_network.encoding``.
        pyramid: Trains on reduced images at the start.
        param_groups: Adam's settings by parameter group.
    """

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"parts": "param_groups", "colour_levels": "color_levels"}

    steps: int | None = None
    learning_rate: RateSchedule | None = None
    learning_rate_cam: RateSchedule | None = None
    alpha: AlphaSchedule | None = None
    levels: LevelSchedule | None = None
    color_levels: LevelSchedule | None = None
    pyramid: PyramidSchedule | None = None
    param_groups: ParamGroupsConfig = field(default_factory=ParamGroupsConfig)

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps = {self.steps}: expected 1 or more optimization steps")

    @property
    def openings(self) -> dict[str, LevelSchedule]:
        """The schedules of levels by the network whose encoding they open."""
        both = {"implicit_network": self.levels, "rendering_network": self.color_levels}
        return {network: schedule for network, schedule in both.items() if schedule is not None}
