"""Checks of what a checkpoint's parts hold, against a schema that each owner of a part declares.

A schema maps keys to a `Kind`. A value that does not fit is answered with an `InputError` that names the
checkpoint, the part and the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from idr.errors import InputError

REMEDY = "continue from another checkpoint (--checkpoint), or get the file anew"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_FLOAT = 1.7e308
"""A whole number beyond it cannot become a float."""
LARGEST_COUNT = 2**53
"""No epoch, step or number of images is beyond it."""


@dataclass(frozen=True)
class Kind:
    """What a value has to be.

    Attributes:
        expected: The words for it.
        fits: Whether a value is that.
        required: Whether the key must be there.
        keys: The schema of a mapping's keys.
    """

    expected: str
    fits: Callable[[Any], bool]
    required: bool = True
    keys: Mapping[Any, Kind] | None = None


Schema = Mapping[Any, Kind]


def check(saved: Any, schema: Schema, where: str, part: str) -> None:
    """Checks the keys of a part, or of a mapping within it, that a schema names; others are not looked at.

    `where` and `part` are the names of checkpoint and part, for messages.

    Raises:
        InputError: A key is missing, or its value does not fit.
    """
    if not isinstance(saved, Mapping):
        raise misfit(where, part, saved, "a dictionary")
    for key, kind in schema.items():
        name = f"{part}.{key}"
        if key not in saved:
            if kind.required:
                raise InputError(f"{where}, {name}: got nothing; expected {kind.expected}; {REMEDY}")
        elif not kind.fits(saved[key]):
            raise misfit(where, name, saved[key], kind.expected)
        elif kind.keys is not None and saved[key] is not None:
            check(saved[key], kind.keys, where, name)


def misfit(where: str, name: str, value: Any, expected: str) -> InputError:
    """Returns the error for a value that does not fit."""
    return InputError(f"{where}, {name}: got {describe(value)}; expected {expected}; {REMEDY}")


def optional(kind: Kind) -> Kind:
    """Returns the kind of a key that may be missing, such as one that older files do not have."""
    return replace(kind, required=False)


def whole(least: int = 0, most: int | None = LARGEST_COUNT) -> Kind:
    """Returns the kind of a whole number in a range; `most` may be None."""

    def fits(value: Any) -> bool:
        return is_number(value) and int(value) == value and least <= value and (most is None or value <= most)

    return Kind(f"a whole number, {_range(least, most)}", fits)


def real(least: float = -math.inf, most: float = math.inf) -> Kind:
    """Returns the kind of a finite number in a range."""

    def fits(value: Any) -> bool:
        return is_number(value) and abs(value) <= LARGEST_FLOAT and least <= value <= most

    return Kind(f"a number, {_range(least, most)}", fits)


def flag() -> Kind:
    """Returns the kind of a bool, or None for a default."""
    return Kind("true, false or nothing", lambda value: value is None or isinstance(value, bool))


def text(*choices: str) -> Kind:
    """Returns the kind of a text, one of several or any."""
    if not choices:
        return Kind("a text", lambda value: isinstance(value, str))
    return Kind(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def table(keys: Schema) -> Kind:
    """Returns the kind of a mapping with a schema of its own."""
    return Kind("a dictionary", lambda value: isinstance(value, Mapping), keys=keys)


def tensor(*shape: int | None, least: float = -math.inf, most: float = math.inf) -> Kind:
    """Returns the kind of a dense tensor of finite floating-point numbers in a range; None is any side."""
    sides = ", ".join("any" if side is None else str(side) for side in shape)
    bounds = "" if math.isinf(least) and math.isinf(most) else f", each {_range(least, most)}"
    words = f"a dense tensor ({sides}) of finite floating-point numbers{bounds}"
    return Kind(words, lambda value: is_tensor(value, shape, least, most))


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_tensor(
    value: Any, shape: tuple[int | None, ...], least: float = -math.inf, most: float = math.inf
) -> bool:
    """Whether a value is a dense tensor of finite floating-point numbers of a shape; None is any side."""
    if not is_dense(value) or value.dtype not in FLOATS or value.dim() != len(shape):
        return False
    if any(side not in (None, own) for side, own in zip(shape, value.shape, strict=True)):
        return False
    value = value.detach()
    return bool((value.isfinite() & (value >= least) & (value <= most)).all())


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor that holds its numbers, one by one."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested)
    )


def describe(value: Any) -> str:
    """Words a value for a message."""
    if isinstance(value, int) and abs(value) > LARGEST_FLOAT:
        return "a huge whole number"  # too long to print
    if not isinstance(value, Tensor):
        is_plain = value is None or isinstance(value, (int, float, str))
        words = repr(value) if is_plain else type(value).__name__
        return words if len(words) <= 60 else f"{words[:57]}..."
    if not is_dense(value):
        how = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse or nested"
        return f"a {how} tensor"
    shape = tuple(value.shape)
    words = f"a {str(value.dtype)[6:]} tensor {shape}"
    if value.dtype not in FLOATS or not value.numel():
        return words
    if not bool(value.isfinite().all()):
        return f"{words} with values that are not finite"
    return f"{words} with values from {float(value.min()):g} to {float(value.max()):g}"


def _range(least: float, most: float | None) -> str:
    if most is None or math.isinf(most) or most == LARGEST_COUNT:
        return "finite" if math.isinf(least) else f"{least:g} or more"
    return f"{least:g} to {most:g}"
