"""The options that end a training before its last epoch."""

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
        help="stop after the step in which M minutes of this process are over",
    )
    parser.add_argument(
        "--target_psnr", type=float, metavar="DB", help="stop after the epoch whose training PSNR passes DB"
    )


def stop_rule(arguments: argparse.Namespace, began: float) -> StopRule:
    """Returns the rule that the command line gives.

    Args:
        arguments: Parsed, with what `add_stop_arguments` added.
        began: When the process began, by `time.monotonic()`.

    Raises:
        InputError: A time or a quality that no training can reach.
    """
    from idr.training.stopping import StopRule

    minutes, psnr = arguments.max_minutes, arguments.target_psnr
    if minutes is not None and not (0 < minutes < math.inf):
        raise InputError(f"--max_minutes {minutes:g}: expected a number of minutes above 0")
    if psnr is not None and not math.isfinite(psnr):
        raise InputError(f"--target_psnr {psnr:g}: expected a number of dB, such as 25")
    return StopRule(minutes, psnr, began)
