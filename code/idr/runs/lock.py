"""The lock of a run's folder: one training at a time writes there."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from idr.errors import InputError

LOCK = ".lock"

log = logging.getLogger(__name__)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds the lock of a run's folder, which the system releases when the process ends, however that ends.

    There is none where the folder is read-only or, with a warning, where its file system has none. Readers
    do not need it.

    Raises:
        InputError: Another process holds it.
    """
    path = run / LOCK
    file = _acquire(path)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):  # the folder may have been renamed or deleted
                if _is_at(file, path):
                    path.unlink()
            file.close()


def _acquire(path: Path) -> IO[str] | None:
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        except OSError:  # writing will fail, with a message of its own
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                words = file.read(200).split() or ["?"] * 3  # its holder is about to write them
                raise _refusal(path.parent, words) from None
        except OSError as error:  # not supported by some network file systems
            file.close()
            log.warning("%s: no lock (%s); let no other training use that folder", path.parent, error)
            return None
        if _is_at(file, path):
            file.truncate(0)
            since = datetime.now().astimezone().isoformat(" ", "seconds")
            file.write(f"{os.getpid()} {socket.gethostname()} {since}\n")
            file.flush()
            return file
        file.close()  # its last holder removed it meanwhile


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _refusal(run: Path, words: list[str]) -> InputError:
    pid, host, since = words[0], words[1], " ".join(words[2:])
    return InputError(
        f"{run} is being trained by process {pid} on {host} since {since}; expected one training per folder: "
        f"wait until it ends, stop it (kill -TERM {pid} saves its state), or continue in a new folder with "
        "--new_run"
    )
