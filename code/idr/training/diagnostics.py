"""Diagnostics: failures of a training that its metrics show.

A failure is reported in its first epoch, then in its second, fourth, eighth and so on. Everything is derived
from the rows of ``metrics.csv``, so a continued run keeps the count.

N points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from idr.failures import FILLED_SPHERE, MASK_LOSS_STUCK, NO_SURFACE, Finding

INSIDE_AT_SPHERE = "inside_at_sphere"
"""Column of ``metrics.csv``: share of the bounding sphere that is inside the object; empty unless it exceeds
`FILLED`."""
NUM_POINTS = 256
FILLED = 0.5
"""Share of the sphere inside the object above which the surface fills it; in a good run the share is 0."""
WINDOW = 10
"""Epochs that are averaged and compared with as many before them."""
STUCK_LOSS = 3e-3
"""Mask loss that good runs fall below early: about the share of rays whose silhouette is wrong times their
distance from it, in unit-sphere units."""
HARDLY_FELL = 0.97
"""Ratio of the mean mask losses of two windows above which the loss is not falling."""

Row = Mapping[str, Any]


def share_inside_at_sphere(model: nn.Module) -> float:
    """Returns the share of the bounding sphere where f is negative; 0 without an implicit network."""
    sdf = getattr(model, "implicit_network", None)
    if sdf is None:
        return 0.0
    like = next(model.parameters())
    k = torch.arange(NUM_POINTS, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * k / NUM_POINTS, math.pi * (1 + 5**0.5) * k  # spread evenly (Fibonacci)
    flat = (1 - z.square()).sqrt()
    points = torch.stack((flat * turn.cos(), flat * turn.sin(), z), dim=1)  # (N, 3)
    points = points * float(getattr(model, "object_bounding_sphere", 1.0))
    with torch.no_grad():
        return float((sdf(points.to(like))[:, 0] < 0).double().mean())


def diagnose(rows: Sequence[Row]) -> tuple[Finding, ...]:
    """Returns the failures that the last row of ``metrics.csv`` shows and that are due to be reported.

    Rows are those of all epochs, oldest first, with numbers or their texts.
    """
    found = []
    for name, is_shown, words in _FAILURES:
        count = 0  # epochs in a row
        while count < len(rows) and is_shown(rows[: len(rows) - count]):
            count += 1
        if count and count & (count - 1) == 0:  # a power of two
            since = "" if count == 1 else f", for {count} epochs in a row"
            found.append(Finding(name, f"in epoch {rows[-1]['epoch']}{since}, {words}"))
    return tuple(found)


def _number(row: Row, column: str, default: float) -> float:
    value = row.get(column)
    return default if value is None or value == "" else float(value)


def _mask_loss_is_stuck(rows: Sequence[Row]) -> bool:
    if len(rows) < 2 * WINDOW:
        return False
    losses = [_number(row, "mask_loss", 0.0) for row in rows[-2 * WINDOW :]]
    before, now = sum(losses[:WINDOW]) / WINDOW, sum(losses[WINDOW:]) / WINDOW
    return now > STUCK_LOSS and now > HARDLY_FELL * before


_FAILURES: tuple[tuple[str, Callable[[Sequence[Row]], bool], str], ...] = (
    (
        NO_SURFACE,
        lambda rows: math.isnan(_number(rows[-1], "psnr", 0.0)),
        "no ray within a mask met the surface; normal at first, see what to do if it lasts",
    ),
    (
        FILLED_SPHERE,
        lambda rows: _number(rows[-1], INSIDE_AT_SPHERE, 0.0) > FILLED,
        "the surface fills the unit sphere: most of the sphere itself lies inside the object; stop, run "
        "doctor.py, and start again with another --seed",
    ),
    (
        MASK_LOSS_STUCK,
        _mask_loss_is_stuck,
        f"the mask loss is above {STUCK_LOSS:g} and has hardly fallen in {WINDOW} epochs: silhouettes and "
        "masks stay apart; run doctor.py on the scene",
    ),
)
