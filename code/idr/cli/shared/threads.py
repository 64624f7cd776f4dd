"""The number of CPU threads of training."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NARROW = 96
"""Units per layer up to which a network runs on one thread by default."""


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--threads``."""
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="CPU threads; default: torch's choice, see OMP_NUM_THREADS, but one for networks of at most "
        f"{NARROW} units per layer",
    )


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restores torch's number of threads on exit: the demo renders in the process that trained."""
    import torch

    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def choose_threads(num_threads: int | None, model: torch.nn.Module, device: torch.device) -> str:
    """Sets the number of CPU threads; a narrow network gets one.

    Its threads would wait for each other longer than they compute, above all on a shared machine. The choice
    depends on the network and not on the load, so that equal seeds give equal bits.

    Args:
        num_threads: From ``--threads``; None to choose.
        model: The network.
        device: Its device.

    Returns:
        The number in words, such as `` (2 threads)``; empty on a GPU.
    """
    import torch

    if device.type != "cpu":
        return ""
    widest = max((min(p.shape) for p in model.parameters() if p.ndim == 2), default=0)
    if num_threads is not None or widest <= NARROW:
        torch.set_num_threads(num_threads or 1)
    count = torch.get_num_threads()
    return f" ({count} thread{'s' if count > 1 else ''})"
