"""How many CPU threads a training gets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NARROW = 96  # units a layer


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--threads``."""
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="CPU threads (default: as torch and OMP_NUM_THREADS say, but one for networks of up to "
        f"{NARROW} units a layer)",
    )


@contextmanager
def threads_restored() -> Iterator[None]:
    """Leaves torch's number of threads to the caller as it was; the demo renders after it trained."""
    import torch

    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def choose_threads(asked: int | None, model: torch.nn.Module, device: torch.device) -> str:
    """Chooses the number of CPU threads; a narrow network gets one.

    More would wait for one another longer than they compute, and starve beside another busy process. The
    choice depends on the network, not on the machine's load, so the same seed still gives the same bits.

    Args:
        asked: The number given with ``--threads``, or None.
        model: The network.
        device: Where it is.

    Returns:
        The number of threads in words; nothing on a device that does not compute with them.
    """
    import torch

    if device.type != "cpu":
        return ""
    widest = max((min(p.shape) for p in model.parameters() if p.ndim == 2), default=0)
    if asked is not None or widest <= NARROW:
        torch.set_num_threads(asked or 1)
    count = torch.get_num_threads()
    return f" ({count} thread{'s' if count > 1 else ''})"
