"""One block of a conf into one frozen dataclass: types checked, unknown keys refused, defaults filled in."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from pyhocon.config_tree import NoneValue

from idr.errors import USER_ERRORS, InputError

log = logging.getLogger(__name__)

Block = TypeVar("Block")
Unknown = Literal["refuse", "warn", "ignore"]


def read_block(
    cls: type[Block], block: Mapping[str, Any] | None, where: str, unknown: Unknown = "refuse"
) -> Block:
    """Fills a frozen dataclass from a block of a conf.

    Field names are the keys. Field types: int, float, bool, str, Path, Literal, tuple and list of these,
    `X | None`, another dataclass (a block within the block), Mapping or Any (handed over as they are).
    An int serves where a float is asked for, a whole float (`2e3`) where an int is, a list where a tuple is.
    The dataclass may check ranges in `__post_init__` and raise ValueError with a message that begins with
    the key's name.

    Args:
        cls: The dataclass.
        block: The block; None stands for an empty one.
        where: The block's full name, for messages, such as `model.ray_tracer`.
        unknown: What a key without a field does: refuse, warn (it is logged), or ignore.

    Returns:
        The dataclass, filled.

    Raises:
        InputError: A key unknown, missing, of a wrong type or out of range; it is named in full.
    """
    block = {} if block is None else plain_value(block)
    if not isinstance(block, Mapping):
        raise InputError(f"{where}: expected a block {{ ... }}, got {_describe(block)}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    hints = typing.get_type_hints(cls)
    given = {str(key).strip('"'): value for key, value in block.items()}
    for key in given:
        if key not in fields:
            _meet_unknown(key, [*fields], where, unknown)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            values[name] = _convert(given[name], hints[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(
                f"{where}.{name}: missing; expected {describe_type(hints[name])}; add it to the conf"
            )
    try:
        return cls(**values)
    except USER_ERRORS + (ValueError,) as error:
        text = str(error)
        raise InputError(text if text.startswith(f"{where}.") else f"{where}.{text}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Words the nearest match of a mistyped name.

    Args:
        name: What was given.
        known: The names there are.

    Returns:
        ` (did you mean X?)`, or nothing where none is near.
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def plain_value(value: Any) -> Any:
    """Replaces the HOCON parser's own null by None; everything else stays."""
    return None if isinstance(value, NoneValue) else value


def _meet_unknown(key: str, known: list[str], where: str, unknown: Unknown) -> None:
    hint = did_you_mean(key, known)
    if unknown == "refuse":
        raise InputError(f"{where}.{key}: unknown key{hint}; keys of `{where}`: {', '.join(known)}")
    if unknown == "warn":
        log.warning("conf: %s.%s is unknown%s and has no effect", where, key, hint)


def _convert(value: Any, wanted: Any, where: str) -> Any:
    value = plain_value(value)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, wanted, where)
    if origin is Literal:
        if value in arguments:
            return value
        hint = did_you_mean(str(value), map(str, arguments))
        raise InputError(f"{where}: got {_describe(value)}; expected {describe_type(wanted)}{hint}")
    if origin in (tuple, list) or wanted in (tuple, list):
        return _convert_sequence(value, wanted, where)
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
        return read_block(wanted, value, where)
    if wanted in _SCALARS:
        return _SCALARS[wanted](value, wanted, where)
    if isinstance(value, Mapping):  # Mapping, dict: a block that someone else reads
        return value
    raise _mismatch(value, wanted, where)


def _convert_union(value: Any, wanted: Any, where: str) -> Any:
    members = typing.get_args(wanted)
    if value is None and type(None) in members:
        return None
    for member in members:
        if member is type(None):
            continue
        try:
            return _convert(value, member, where)
        except InputError:
            if len([m for m in members if m is not type(None)]) == 1:
                raise  # the only candidate: its own message says most
    raise _mismatch(value, wanted, where)


def _convert_sequence(value: Any, wanted: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _mismatch(value, wanted, where)
    container = typing.get_origin(wanted) or wanted
    members = typing.get_args(wanted)
    if not members:
        return container(value)
    if container is list or members[-1] is Ellipsis:
        return container(_convert(item, members[0], f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(members):
        raise InputError(f"{where}: got {len(value)} values; expected {describe_type(wanted)}")
    return tuple(
        _convert(item, kind, f"{where}[{i}]")
        for i, (item, kind) in enumerate(zip(value, members, strict=True))
    )


def _to_int(value: Any, wanted: Any, where: str) -> int:
    number = _to_float(value, wanted, where)
    if number != int(number):
        raise _mismatch(value, wanted, where)
    return int(value) if isinstance(value, (int, str)) and float(int(number)) == number else int(number)


def _to_float(value: Any, wanted: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _mismatch(value, wanted, where)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _mismatch(value, wanted, where) from None
    if not math.isfinite(number):
        raise _mismatch(value, wanted, where)
    return number


def _to_bool(value: Any, wanted: Any, where: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise _mismatch(value, wanted, where)
    return value


def _to_str(value: Any, wanted: Any, where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _mismatch(value, wanted, where)
    return wanted(str(value))


_SCALARS: dict[Any, Any] = {int: _to_int, float: _to_float, bool: _to_bool, str: _to_str, Path: _to_str}

_NAMES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path",
    type(None): "null", Any: "any value",
}  # fmt: skip


def describe_type(wanted: Any) -> str:
    """Words what a key of a type expects, such as `a list of 2: [a number, a number]`."""
    origin, members = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in _NAMES:
        return _NAMES[wanted]
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in members)
    if origin is Literal:
        return "one of " + ", ".join(map(str, members))
    if origin in (tuple, list) and members:
        if origin is list or members[-1] is Ellipsis:
            return f"a list [...], each {describe_type(members[0])}"
        return f"a list of {len(members)}: [{', '.join(describe_type(member) for member in members)}]"
    if origin in (tuple, list) or wanted in (tuple, list):
        return "a list [...]"
    return "a block { ... }"


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a block"
    kind = {bool: "true/false", int: "a number", float: "a number", str: "a text", list: "a list"}.get(
        type(value)
    )
    return "null" if value is None else f"{value!r}" + (f" ({kind})" if kind else "")


def _mismatch(value: Any, wanted: Any, where: str) -> InputError:
    return InputError(f"{where}: got {_describe(value)}; expected {describe_type(wanted)}")
