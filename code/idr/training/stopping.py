"""When training ends before its last epoch: a time that is spent, a quality that is reached."""

from __future__ import annotations

import math
import time


class StopRule:
    """Says when training has had enough; both limits are optional.

    The clock is this process's own: a run that goes on counts anew.

    Args:
        max_minutes: Time from `began` on, in minutes.
        target_psnr: PSNR in dB that an epoch's training rays must pass.
        began: When the clock started, by `time.monotonic()`; None for now.
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
        """Time until the clock ends training; infinite without `max_minutes`."""
        return self._ends - time.monotonic()

    def take_epoch(self, psnr: float) -> None:
        """Takes in the PSNR of a whole epoch; NaN, where nothing was hit, reaches nothing."""
        if self.target_psnr is not None and psnr > self.target_psnr:
            self._reached = psnr

    @property
    def is_met(self) -> bool:
        """Whether training is to stop after the step just done."""
        return self._reached is not None or self.seconds_left() <= 0

    @property
    def reason(self) -> str:
        """Why training stopped, where it was this rule that stopped it."""
        if self._reached is not None:
            return f"the last epoch's PSNR, {self._reached:.2f} dB, passed --target_psnr {self.target_psnr:g}"
        return f"--max_minutes {self.max_minutes:g} are over"
