"""Compiles loops for a CPU with numba, and runs them in threads without the global interpreter lock."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from idr.model.twins import loop_threads

log = logging.getLogger(__name__)

ZERO, ONE = np.float32(0), np.float32(1)
"""float32 constants: a literal would make a loop compute in float64."""


def can_import(library: str) -> bool:
    """Whether a library can be imported. Logs the reason if it is installed and cannot."""
    if importlib.util.find_spec(library) is None:
        return False
    try:
        importlib.import_module(library)
    except ImportError as error:  # for example an unsupported numpy
        log.warning("%s is installed and cannot be used: %s", library, error)
        return False
    return True


@functools.cache
def has_numba() -> bool:
    """Whether loops can be compiled here, see `can_import`."""
    return can_import("numba")


def compiled(**options: Any) -> Any:
    """Returns a decorator that compiles a loop, which then releases the global interpreter lock.

    Division by zero follows numpy, not Python. Without numba the loop is unchanged, so that its module can be
    imported; no kernel then uses it.

    Args:
        options: Further options of numba.njit.
    """
    if not has_numba():
        return lambda loop: loop
    numba: Any = importlib.import_module("numba")

    def decorate(loop: Callable[..., Any]) -> Any:
        try:  # compiled once per machine, not per process
            return numba.njit(nogil=True, error_model="numpy", cache=True, **options)(loop)
        except RuntimeError:  # no cache folder is writable
            return numba.njit(nogil=True, error_model="numpy", **options)(loop)

    return decorate


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Returns persistent threads; a forked process makes its own."""
    return ThreadPoolExecutor(count, "loops")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def in_threads(task: Callable[..., None], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Runs jobs in `idr.model.twins.loop_threads` threads, including this one.

    Args:
        task: Releases the global interpreter lock while it computes.
        jobs: The arguments of each job.
    """
    threads = min(loop_threads(), len(jobs))
    remaining = iter(jobs)  # next() of a sequence's iterator is atomic

    def work() -> None:
        for job in remaining:
            task(*job)

    others = [_helpers(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for other in others:
            other.result()
