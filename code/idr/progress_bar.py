"""Progress of long loops in the main thread: a bar on a terminal, else a log line now and then."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
LINE_SECONDS = 15.0
"""Seconds between log lines."""
_shown = False


@contextmanager
def bars_shown(shown: bool) -> Iterator[None]:
    """Shows bars in the context, if standard error is a terminal."""
    global _shown
    before, _shown = _shown, shown and sys.stderr.isatty()
    try:
        yield
    finally:
        _shown = before


def bars_cleared() -> AbstractContextManager[object]:
    """Removes the bars from the terminal while the body prints a line."""
    if not _shown:
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def with_progress(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """Yields items and shows how many are done, in the end how long all took.

    `total` is their number if they do not know it. Bars are for the commands, see `bars_shown`. No tracer may
    use this: it would wait for the terminal.
    """
    if threading.current_thread() is not threading.main_thread():  # of the viewer's page
        yield from items
        return
    if _shown:
        from tqdm import tqdm

        size = shutil.get_terminal_size()  # 80 x 24 for a terminal without a size, which hides tqdm's bars
        yield from tqdm(
            items, title, total, leave=False, file=sys.stderr, ncols=size.columns, nrows=size.lines
        )
        return
    total = len(items) if total is None and isinstance(items, Sized) else total
    began = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last > LINE_SECONDS:
            last = now
            left = "" if not total else f" of {total}, {(now - began) * (total - done) / done:.0f} s left"
            log.info("%s: %d%s", title, done, left)
    if last > began:
        log.info("%s: done in %.0f s", title, time.monotonic() - began)
