"""Curves over epochs as small diagrams in SVG.

N epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_POINTS = 400
"""Of a curve: more than a screen shows."""
ROWS = 5
"""Approximate number of labels along an axis."""


@dataclass(frozen=True)
class Line:
    """A curve: its name, first and last value as texts, and its path in the diagram."""

    name: str
    first: str
    last: str
    path: str


@dataclass(frozen=True)
class Diagram:
    """Curves in one frame; ``rows`` and ``columns`` are places and texts of the labels."""

    title: str
    lines: list[Line]
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    width: int = 480
    height: int = 220
    left: int = 52


BOTTOM, TOP = 40, 10
"""Margins of a diagram, pixels."""


def diagram(
    title: str, epochs: Array, curves: Mapping[str, Array], logarithmic: bool = False
) -> Diagram | None:
    """Returns the diagram of curves, (N,) each, with gaps where they are NaN; None without any value.

    On a logarithmic axis values of 0 and less are gaps.
    """
    shown = {name: np.where(np.isfinite(values), values, np.nan) for name, values in curves.items()}
    if logarithmic:
        shown = {name: np.log10(np.where(values > 0, values, np.nan)) for name, values in shown.items()}
    shown = {name: values for name, values in shown.items() if np.isfinite(values).any()}
    if not shown:
        return None
    low, high = (float(f([f(v) for v in shown.values()])) for f in (np.nanmin, np.nanmax))
    empty = Diagram(title, [], [], [])
    x0, x1 = float(epochs[0]), max(float(epochs[-1]), float(epochs[0]) + 1e-9)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad

    def across(values: Array) -> Array:
        return empty.left + (values - x0) / (x1 - x0) * (empty.width - empty.left - 8)

    def along(values: Array) -> Array:
        return TOP + (high - values) / (high - low) * (empty.height - TOP - BOTTOM)

    step = -(-len(epochs) // MAX_POINTS)
    kept = np.unique([*range(0, len(epochs), step), len(epochs) - 1])
    lines = [_line(name, curves[name], across(epochs)[kept], along(v)[kept]) for name, v in shown.items()]
    rows = [(float(along(np.array(t))), _text(10**t if logarithmic else t)) for t in ticks(low, high, ROWS)]
    columns = [(float(across(np.array(t))), _text(t)) for t in ticks(x0, x1, ROWS) if t == int(t)]
    return Diagram(title, lines, rows, columns)


def _line(name: str, values: Array, x: Array, y: Array) -> Line:
    known = values[np.isfinite(values)]
    path, pen = [], "M"
    for column, row in zip(x, y, strict=True):
        if math.isnan(row):
            pen = "M"
            continue
        path.append(f"{pen}{column:.1f} {row:.1f}")
        pen = "L"
    return Line(name, _text(float(known[0])), _text(float(known[-1])), "".join(path))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Returns about `count` round numbers in a range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _text(value: float) -> str:
    return f"{value:.3g}"
