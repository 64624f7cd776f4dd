"""Compiled loops on a CPU: whether there are any, and their threads, which let one another run."""

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
import torch

log = logging.getLogger(__name__)

ZERO, ONE = np.float32(0), np.float32(1)
"""A literal would make a loop compute in float64."""


@functools.cache
def has_numba() -> bool:
    """Whether loops can be compiled; says why not where numba is installed and does not work."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        importlib.import_module("numba")
    except ImportError as error:  # of a numpy that it does not know, say
        log.warning("numba is installed and cannot be used: %s", error)
        return False
    return True


def compiled(**options: Any) -> Any:
    """Returns a decorator that compiles a loop, which lets other threads run; float32's rules, not Python's.

    Args:
        options: Further ones of numba.njit.
    """
    numba: Any = importlib.import_module("numba")

    def decorate(loop: Callable[..., Any]) -> Any:
        try:  # to be compiled once on a machine, not once a process
            return numba.njit(nogil=True, error_model="numpy", cache=True, **options)(loop)
        except RuntimeError:  # no folder to keep it in can be written
            return numba.njit(nogil=True, error_model="numpy", **options)(loop)

    return decorate


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Returns threads that stay; a fork has to make its own."""
    return ThreadPoolExecutor(count, "loops")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def in_threads(task: Callable[..., None], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Does jobs by as many threads as torch uses, this one among them.

    Args:
        task: Lets other threads run while it computes.
        jobs: Its arguments, job by job.
    """
    threads = min(torch.get_num_threads(), len(jobs))
    left = iter(jobs)  # next() of a sequence's iterator is not interrupted by another thread

    def work() -> None:
        for job in left:
            task(*job)

    others = [_helpers(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for other in others:
            other.result()
