"""What an ailing training looks like from its numbers, by name.

Every finding is said in the first epoch of its ailment, in the second, the fourth, the eighth and so on:
often enough to be seen, too seldom to hide all else. All is read from the rows of ``metrics.csv``, so that a
run that goes on knows what it said.

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
"""Column of ``metrics.csv``: share of points on the bounding sphere that the network takes for inside the
object; only in epochs in which it is more than `FILLED`."""
NUM_POINTS = 256
FILLED = 0.5
"""Share of those points from which on the surface is said to fill the sphere; a sound one leaves it alone."""
WINDOW = 10
"""Epochs that are averaged, and compared with as many before them."""
STUCK_LOSS = 3e-3
"""The mask loss is about the share of rays that the silhouette gets wrong times how far off it is for them,
in unit-sphere units; sound runs fall below this early."""
HARDLY_FELL = 0.97

Row = Mapping[str, Any]


def share_inside_at_sphere(model: nn.Module) -> float:
    """Returns the share of points on the bounding sphere where the network is negative: inside the object.

    Args:
        model: The seam of `IDRNetwork`; 0 for one without an implicit network.
    """
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


def symptoms(rows: Sequence[Row]) -> tuple[Finding, ...]:
    """Names what ails a training, where it is time to say so.

    Args:
        rows: Rows of ``metrics.csv``, oldest first, one an epoch; numbers or their texts.

    Returns:
        Findings about the last row.
    """
    found = []
    for name, shows, words in _KNOWN:
        lasting = _lasting(rows, shows)
        if lasting and lasting & (lasting - 1) == 0:  # a power of two
            since = "" if lasting == 1 else f", for {lasting} epochs in a row"
            found.append(Finding(name, f"in epoch {rows[-1]['epoch']}{since}, {words}"))
    return tuple(found)


def _lasting(rows: Sequence[Row], shows: Callable[[Sequence[Row]], bool]) -> int:
    """In how many epochs up to the last one something showed without a break."""
    count = 0
    while count < len(rows) and shows(rows[: len(rows) - count]):
        count += 1
    return count


def _number(row: Row, column: str, otherwise: float) -> float:
    value = row.get(column)
    return otherwise if value is None or value == "" else float(value)


def _meets_nothing(rows: Sequence[Row]) -> bool:
    return math.isnan(_number(rows[-1], "psnr", 0.0))


def _fills_the_sphere(rows: Sequence[Row]) -> bool:
    return _number(rows[-1], INSIDE_AT_SPHERE, 0.0) > FILLED


def _mask_loss_is_stuck(rows: Sequence[Row]) -> bool:
    if len(rows) < 2 * WINDOW:
        return False
    losses = [_number(row, "mask_loss", 0.0) for row in rows[-2 * WINDOW :]]
    before, now = sum(losses[:WINDOW]) / WINDOW, sum(losses[WINDOW:]) / WINDOW
    return now > STUCK_LOSS and now > HARDLY_FELL * before


_KNOWN = (
    (
        NO_SURFACE,
        _meets_nothing,
        "no ray within a mask met the surface; normal at first, see what to do if it lasts",
    ),
    (
        FILLED_SPHERE,
        _fills_the_sphere,
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
