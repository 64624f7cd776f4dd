"""Reads a block of a conf into a frozen dataclass: checks types, refuses unknown keys, fills in defaults.

A dataclass declares the keys that it had in earlier versions as class variables::

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"old_key": "new_key"}
    RENAMED_VALUES: ClassVar[dict[str, dict[str, str]]] = {"new_key": {"old value": "new value"}}
    REMOVED_KEYS: ClassVar[dict[str, str]] = {"key": "why it is gone and what to do"}

Old keys and values keep working with a warning; removed keys are refused. It also declares the
largest sizes and counts: larger ones are refused before they use up memory or time::

    LARGEST: ClassVar[dict[str, int]] = {"key": 8192}
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from pyhocon.config_tree import NoneValue

from idr.errors import USER_ERRORS, InputError

log = logging.getLogger(__name__)

Block = TypeVar("Block")
Unknown = Literal["refuse", "warn", "ignore"]

LARGEST_INT = 10**9
"""Largest whole number of a key without an entry in its dataclass's `LARGEST`."""


def read_block(
    cls: type[Block], block: Mapping[str, Any] | None, where: str, unknown: Unknown = "refuse"
) -> Block:
    """Fills a frozen dataclass from a block of a conf.

    Field names are the keys. Fields may be int, float, bool, str, Path, Literal, tuples and lists of these,
    `X | None`, another dataclass (a nested block), Mapping or Any (passed on unread). An int is accepted for
    a float, a whole float (`2e3`) for an int, and a list for a tuple. The dataclass may check ranges in
    `__post_init__` and raise ValueError with a message that begins with the key's name.

    Args:
        cls: The dataclass.
        block: The block; None for an empty one.
        where: Full name of the block for messages, such as `model.ray_tracer`.
        unknown: Whether a key without a field is refused, logged as a warning, or ignored.

    Raises:
        InputError: A key is unknown, removed, missing, of a wrong type or out of range.
    """
    block = {} if block is None else plain_value(block)
    if not isinstance(block, Mapping):
        raise InputError(f"{where}: expected a block {{ ... }}, got {_describe(block)}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    hints = typing.get_type_hints(cls)
    entries = _with_current_names(cls, {str(key).strip('"'): value for key, value in block.items()}, where)
    for key in (key for key in entries if key not in fields):
        hint = did_you_mean(key, fields)
        if unknown == "refuse":
            raise InputError(f"{where}.{key}: unknown key{hint}; keys of `{where}`: {', '.join(fields)}")
        if unknown == "warn":
            log.warning("conf: %s.%s is unknown%s and has no effect", where, key, hint)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in entries:
            values[name] = _convert(entries[name], hints[name], f"{where}.{name}")
            _check_largest(values[name], getattr(cls, "LARGEST", {}).get(name), f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(
                f"{where}.{name}: missing; expected {describe_type(hints[name])}; add it to the conf"
            )
    try:
        return cls(**values)
    except USER_ERRORS + (ValueError,) as error:
        text = str(error)
        raise InputError(text if text.startswith(f"{where}.") else f"{where}.{text}") from error


def _check_largest(value: Any, largest: int | None, where: str) -> None:
    """Refuses numbers, also in lists, above `largest`; without it, whole numbers above `LARGEST_INT`."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_largest(item, largest, f"{where}[{i}]")
    elif isinstance(value, int) or (isinstance(value, float) and largest is not None):
        largest = LARGEST_INT if largest is None else largest
        if abs(value) > largest:
            raise InputError(f"{where} = {value}: expected at most {largest:,}")


def check_positive(config: Any, names: Iterable[str], where: str) -> None:
    """Refuses a block's values that are not above 0.

    Args:
        config: The block's dataclass.
        names: Its keys with numbers.
        where: The block's name.

    Raises:
        InputError: Names the first key whose value is 0 or less.
    """
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise InputError(f"{where}.{name} = {value}: expected a number above 0")


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns ` (did you mean X?)` for the candidate nearest to a mistyped name, or an empty string."""
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def plain_value(value: Any) -> Any:
    """Returns None for the HOCON parser's null, any other value unchanged."""
    return None if isinstance(value, NoneValue) else value


def _with_current_names(cls: type, block: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the block with renamed keys and values replaced, one warning for each."""
    removed: Mapping[str, str] = getattr(cls, "REMOVED_KEYS", {})
    new_keys: Mapping[str, str] = getattr(cls, "RENAMED_KEYS", {})
    new_values: Mapping[str, Mapping[str, str]] = getattr(cls, "RENAMED_VALUES", {})
    renamed: dict[str, Any] = {}
    for key, value in block.items():
        if key in removed:
            raise InputError(f"{where}.{key}: this key was removed: {removed[key]}")
        new_key = new_keys.get(key, key)
        if new_key in renamed or (new_key != key and new_key in block):
            raise InputError(
                f"{where}.{new_key}: got it twice, also under its old name {where}.{key}; remove the old one"
            )
        new_value = new_values.get(new_key, {}).get(value, value) if isinstance(value, str) else value
        if new_value != value:
            old, new = f"{where}.{key} = {value}", f"{where}.{new_key} = {new_value}"
            log.warning("conf: `%s` is now `%s`; the old form still works", old, new)
        elif new_key != key:
            log.warning("conf: %s.%s is now %s.%s; the old name still works", where, key, where, new_key)
        renamed[new_key] = new_value
    return renamed


def _convert(value: Any, kind: Any, where: str) -> Any:
    value = plain_value(value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, kind, where)
    if origin is Literal:
        if value in arguments:
            return value
        hint = did_you_mean(str(value), map(str, arguments))
        raise InputError(f"{where}: got {_describe(value)}; expected {describe_type(kind)}{hint}")
    if origin in (tuple, list) or kind in (tuple, list):
        return _convert_sequence(value, kind, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return read_block(kind, value, where)
    if kind in _SCALARS:
        try:
            return _SCALARS[kind](value)
        except (ValueError, OverflowError):
            raise _mismatch(value, kind, where) from None
    if isinstance(value, Mapping):  # field type Mapping or dict: a block that its owner reads
        return value
    raise _mismatch(value, kind, where)


def _convert_union(value: Any, kind: Any, where: str) -> Any:
    if value is None and type(None) in typing.get_args(kind):
        return None
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    for member in members:
        try:
            return _convert(value, member, where)
        except InputError:
            if len(members) == 1:
                raise  # the only candidate, whose message is the most specific
    raise _mismatch(value, kind, where)


def _convert_sequence(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _mismatch(value, kind, where)
    container = typing.get_origin(kind) or kind
    members = typing.get_args(kind)
    if not members:
        return container(value)
    if container is list or members[-1] is Ellipsis:
        return container(_convert(item, members[0], f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(members):
        raise InputError(f"{where}: got {len(value)} values; expected {describe_type(kind)}")
    return tuple(_convert(value[i], member, f"{where}[{i}]") for i, member in enumerate(members))


def _to_str(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    return str(value)


def _to_float(value: Any) -> float:
    number = float(_to_str(value))
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_int(value: Any) -> int:
    number = _to_float(value)
    if number != int(number):
        raise ValueError
    return int(value) if isinstance(value, (int, str)) else int(number)


def _to_bool(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str):
        value = words.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError
    return value


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _to_int,
    float: _to_float,
    bool: _to_bool,
    str: _to_str,
    Path: lambda value: Path(_to_str(value)),
}
"""Conversions, which raise ValueError or OverflowError for a value of another kind."""

_NAMES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path",
    type(None): "null", Any: "any value",
}  # fmt: skip


def describe_type(kind: Any) -> str:
    """Returns the words for a type of key, such as `a list of 2: [a number, a number]`."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if kind in _NAMES:
        return _NAMES[kind]
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in members)
    if origin is Literal:
        return "one of " + ", ".join(map(str, members))
    if origin in (tuple, list) and members:
        if origin is list or members[-1] is Ellipsis:
            return f"a list [...], each {describe_type(members[0])}"
        return f"a list of {len(members)}: [{', '.join(describe_type(member) for member in members)}]"
    if origin in (tuple, list) or kind in (tuple, list):
        return "a list [...]"
    return "a block { ... }"


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a block"
    kinds = {bool: "true/false", int: "a number", float: "a number", str: "a text", list: "a list"}
    kind = kinds.get(type(value))
    return "null" if value is None else f"{value!r}" + (f" ({kind})" if kind else "")


def _mismatch(value: Any, kind: Any, where: str) -> InputError:
    return InputError(f"{where}: got {_describe(value)}; expected {describe_type(kind)}")
