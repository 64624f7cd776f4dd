"""Threads for compiled loops, which let one another run while they compute."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


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
