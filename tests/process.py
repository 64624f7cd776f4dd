"""The state that a command changes in its process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def process_left_as_it_was() -> Iterator[None]:
    """Restores, on exit, the package's log, torch's number of threads and its treatment of denormals."""
    import torch

    log = logging.getLogger("idr")
    before = log.handlers[:], log.level, log.propagate
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        log.handlers[:], log.level, log.propagate = before
        torch.set_num_threads(num_threads)
        torch.set_flush_denormal(False)
