"""What ends training before its last epoch: a time limit, a target quality, a signal, a lost folder."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from idr.errors import TrainingStoppedError

log = logging.getLogger(__name__)


def stop_signals() -> list[signal.Signals]:
    """Returns the signals that ask for an end; SIGHUP only where nobody, such as nohup, ignores it."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


class StopRule:
    """Ends training by wall time or by PSNR; both limits are optional.

    The time is that of this process: a continued run starts at zero again.

    Args:
        max_minutes: Time limit in minutes, counted from `began`.
        target_psnr: PSNR in dB that the training rays of an epoch must exceed.
        began: Start of the time by `time.monotonic()`; None for now.
    """

    def __init__(
        self, max_minutes: float | None = None, target_psnr: float | None = None, began: float | None = None
    ) -> None:
        self.max_minutes, self.target_psnr = max_minutes, target_psnr
        self._ends = math.inf
        if max_minutes is not None:
            self._ends = (time.monotonic() if began is None else began) + 60 * max_minutes
        self._reached: float | None = None

    def seconds_left(self) -> float:
        """Returns the time left, infinite without `max_minutes`."""
        return self._ends - time.monotonic()

    def record_epoch(self, psnr: float) -> None:
        """Compares the PSNR of an epoch with the target; NaN, when no ray hit, does not reach it."""
        if self.target_psnr is not None and psnr > self.target_psnr:
            self._reached = psnr

    @property
    def is_met(self) -> bool:
        """Whether training has to stop after the present step."""
        return self._reached is not None or self.seconds_left() <= 0

    @property
    def reason(self) -> str:
        """Why this rule stopped training."""
        if self._reached is not None:
            return f"the last epoch's PSNR, {self._reached:.2f} dB, passed --target_psnr {self.target_psnr:g}"
        return f"--max_minutes {self.max_minutes:g} are over"


class StopSignals:
    """Turns the first of `stop_signals` into a request to stop; a second one stops at once.

    Attributes:
        received: Whether a signal came.
    """

    received = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handles signals in the context."""
        self.received = False
        previous = {}
        with suppress(ValueError):  # only the main thread can handle signals
            for number in stop_signals():
                previous[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        log.warning("stopping after this step; once more to stop without saving")


class RunFolder:
    """Notices that a run's folder was renamed or deleted while training writes to it.

    Without the check, writing would make a second folder of that name with a part of the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None  # open, so that no other folder gets the number of its inode

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watches in the context; an error because of the folder says so, not which file was concerned.

        Raises:
            TrainingStoppedError: The body fails because the folder, or a part of it, is gone.
        """
        with suppress(OSError):
            self._descriptor = os.open(self.path, os.O_RDONLY)
        try:
            yield
        except OSError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, FileNotFoundError):  # its files are going, one by one
                raise self._lost() from error
            self.check()
            raise
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        """Raises `TrainingStoppedError` if a watched folder is no longer at its path."""
        if self._descriptor is None:
            return
        try:
            if os.path.samestat(os.fstat(self._descriptor), os.stat(self.path)):
                return
        except OSError as error:
            raise self._lost() from error
        raise self._lost()

    def _lost(self) -> TrainingStoppedError:
        return TrainingStoppedError(
            f"the run's folder {self.path} was renamed or deleted; what was saved before is where the folder "
            "is now: continue it there with --is_continue, or train again"
        )
