"""Strategies that damage texts, JSON trees, arrays and bytes, and the property that readers must hold."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from idr.errors import USER_ERRORS

SECONDS = 60
"""Longest time of one reading, far above what it takes on a loaded machine."""

VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 0.5, -1e-9, 1e300, float("nan"), float("inf"), 10**30, 10**400, "", "x", "nan",
    "²", "a\x00b", "../x", "/dev/zero", "x" * 300, "\ud800", "\x1b[1m", [], [[]], [1, 2], [None], {},
    {"a": []},
]  # fmt: skip
"""Values in place of a valid one."""
WORDS = [
    "", "0", "-1", "nan", "1e999", "9" * 30, "²", "\x00", "\ufeff", "\x1b[1m", "{", "}", "[", "]", '"', "=",
    ",", ";", "#", "\n", "\r", "null", "${x}", "include", "+=", "\u202e"
]  # fmt: skip
"""Words in place of a piece of a text."""


def bounded(examples: int) -> settings:
    """Settings of a test that always draws the same examples."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


@st.composite
def damaged_text(draw: st.DrawFn, text: str) -> str:
    """Replaces up to three pieces of a text by others."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.sampled_from(WORDS)) + text[end:]
    return text


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Cuts bytes short, or overwrites a few."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def places(tree: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the keys that lead to each value within a tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*where, key)
        yield from places(value, (*where, key))


@st.composite
def damaged_tree(draw: st.DrawFn, tree: Any, values: list[Any] = VALUES) -> Any:
    """Replaces or removes up to two values of a tree of dictionaries and lists, or replaces the whole."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from([("whole",), *places(tree)]))
        value = copy.deepcopy(draw(st.sampled_from(values)))
        parent = tree
        for key in path:
            parent = parent[key]
        if not isinstance(parent, (dict, list)) or last == "whole":
            return value
        if draw(st.integers(0, 4)) == 0:
            del parent[last]
        else:
            parent[last] = value
    return tree


@st.composite
def damaged_arrays(draw: st.DrawFn, arrays: dict[str, Any]) -> dict[str, Any]:
    """Replaces, reshapes, removes or renames up to two arrays."""
    arrays = dict(arrays)
    for _ in range(draw(st.integers(1, 2))):
        if not arrays:
            break
        key = draw(st.sampled_from(sorted(arrays)))
        array = np.asarray(arrays.pop(key))
        kind = draw(st.sampled_from(("value", "dtype", "shape", "name", "gone")))
        if kind == "value" and array.dtype.kind in "fiu":
            array = array.astype(np.float64)
            if array.size:
                array.flat[draw(st.integers(0, array.size - 1))] = draw(
                    st.sampled_from([np.nan, np.inf, 0, 1e308, -1e308])
                )
        elif kind == "dtype":
            kinds = [np.bool_, np.int8, np.uint64, np.float16, np.complex128, "U3", "S2", "V4", "M8[s]"]
            with np.errstate(all="ignore"):
                array = np.zeros(array.shape, draw(st.sampled_from(kinds)))
        elif kind == "shape":
            array = np.zeros(draw(st.sampled_from([(), (0,), (4,), (3, 4), (4, 4, 1), (0, 4), (2**16, 1)])))
        elif kind == "name":
            names = ["world_mat_00", "world_mat_²", "scale_mat_-1", "world_mat_99", "points", "a/b"]
            key = draw(st.sampled_from(names))
        if kind != "gone":
            arrays[key] = array
    return arrays


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError if the body takes longer; only in the main thread."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reads_or_refuses(read: Callable[[], object], *files: Path) -> None:
    """Asserts that a reader returns or raises a user's mistake, in time, and leaves the files as they are."""
    before = [file.read_bytes() for file in files]
    with within(SECONDS):
        try:
            read()
        except USER_ERRORS as error:
            assert str(error).strip()
        except OSError as error:
            assert error.filename is not None  # the commands make a message of it
    assert [file.read_bytes() for file in files] == before
