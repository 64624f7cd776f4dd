"""The flags that end training before its last epoch."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from idr.errors import InputError

if TYPE_CHECKING:
    from idr.training.stopping import StopRule


def add_stop_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--max_minutes`` and ``--target_psnr``."""
    parser.add_argument(
        "--max_minutes",
        type=float,
        metavar="M",
        help="stop after the step in which this process has run for M minutes",
    )
    parser.add_argument(
        "--target_psnr",
        type=float,
        metavar="DB",
        help="stop after the epoch whose training PSNR exceeds DB decibels",
    )


def stop_rule(arguments: argparse.Namespace, began: float) -> StopRule:
    """Returns the rule that ``--max_minutes`` and ``--target_psnr`` define.

    Args:
        arguments: The parsed command line.
        began: Start of the process on the clock of `time.monotonic()`.

    Raises:
        InputError: A time that is not positive, or a PSNR that is not finite.
    """
    from idr.training.stopping import StopRule

    minutes, psnr = arguments.max_minutes, arguments.target_psnr
    if minutes is not None and not (0 < minutes < math.inf):
        raise InputError(f"--max_minutes {minutes:g}: expected a number of minutes above 0")
    if psnr is not None and not math.isfinite(psnr):
        raise InputError(f"--target_psnr {psnr:g}: expected a number of dB, such as 25")
    return StopRule(minutes, psnr, began)
