"""Checking the tracer's part of a checkpoint before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from idr.errors import InputError
from idr.fields.sdf_grid import GRID

MAX_LEVEL = 2
"""Halvings of the cells of a grid in training, at most."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_grid(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    sides = [GRID.coarsest_cells * 2**level + 1 for level in range(MAX_LEVEL + 1)]
    cube = value.dim() == 3 and value.shape[0] in sides and len(set(value.shape)) == 1
    return cube and value.is_floating_point() and bool(value.isfinite().all())


_SCHEMA: dict[str, tuple[Callable[[Any], bool], str]] = {
    "radius": (lambda x: _is_number(x) and x > 0, "a finite number above 0"),
    "values": (_is_grid, "finite numbers on (n, n, n) nodes, n = 17, 33 or 65"),
    "errors": (
        lambda x: _is_grid(x) and bool((x >= 0).all()),
        "finite numbers of at least 0 on the same nodes",
    ),
    "lipschitz": (lambda x: _is_number(x) and x > 0, "a finite number above 0"),
    "num_evaluations": (_is_count, "a whole number of at least 0"),
    "age": (_is_count, "a whole number of at least 0"),
    "excess": (lambda x: _is_number(x) and x >= 0, "a finite number of at least 0"),
    "level": (lambda x: _is_count(x) and x <= MAX_LEVEL, f"a whole number from 0 to {MAX_LEVEL}"),
    "report": (
        lambda x: (
            isinstance(x, (list, tuple)) and len(x) in (2, 3) and all(_is_number(y) and y >= 0 for y in x)
        ),
        "two or three finite numbers of at least 0",
    ),
    "traced": (_is_count, "a whole number of at least 0"),
}
_ADDED_LATER = frozenset({"traced"})


def check_grid_state(state: Mapping[str, Any], where: str) -> None:
    """Checks what `GridTracker.state` returned and a checkpoint kept.

    Args:
        state: The state.
        where: The checkpoint's name, for messages.

    Raises:
        InputError: A part is missing or has the wrong type, shape or range.
    """

    def refuse(key: str, got: str, expected: str) -> InputError:
        return InputError(
            f"{where}, TracerState.{key}: got {got}; expected {expected}; continue from another checkpoint"
        )

    for key, (fits, expected) in _SCHEMA.items():
        if key not in state:
            if key in _ADDED_LATER:
                continue
            raise refuse(key, "nothing", expected)
        if not fits(state[key]):
            raise refuse(key, _describe(state[key]), expected)
    if state["values"].shape != state["errors"].shape or state["values"].dtype != state["errors"].dtype:
        raise refuse(
            "errors", _describe(state["errors"]), f"the same as values: {_describe(state['values'])}"
        )


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)[:60]
    if value.layout != torch.strided or value.is_meta or value.is_quantized or not value.is_floating_point():
        return f"a tensor of {value.dtype}, {value.layout}, on {value.device}"
    finite = "" if bool(value.isfinite().all()) else ", not all finite"
    return f"a tensor {tuple(value.shape)} of {value.dtype}{finite}"
