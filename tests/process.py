"""What a command changes in the process it runs in, undone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def process_left_as_it_was() -> Iterator[None]:
    """Undoes what a command does to its process: logging, and torch's treatment of denormal numbers."""
    import torch

    log = logging.getLogger("idr")
    before = log.handlers[:], log.level, log.propagate
    try:
        yield
    finally:
        log.handlers[:], log.level, log.propagate = before
        torch.set_flush_denormal(False)
