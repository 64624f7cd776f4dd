"""``report.py``: a page that shows one run and opens without network."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import make_parser, parse, run, say
from idr.cli.shared.runs import add_run_arguments, open_chosen_run
from idr.errors import USER_ERRORS, InputError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("idr.cli.report")

DESCRIPTION = (
    "Writes report.html into a run's folder: curves, renderings beside photographs with error maps, the "
    "surface with its cameras, conf and versions, all in one file."
)
EXAMPLES = """\
  python evaluation/report.py --conf ./confs/dtu_fixed_cameras.conf --scan_id 65
  python evaluation/report.py --conf ./confs/demo.conf --views 12 --out demo.html"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add_run_arguments(parser)
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the run's folder")
    parser.add_argument("--views", type=int, default=6, help="training views shown, spread evenly")
    parser.add_argument(
        "--side", type=int, default=320, help="pixels along the longer side of a picture at most"
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=96,
        help="grid samples along the mesh's shortest side",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> None:
    for flag, least in (("views", 1), ("side", 1), ("resolution", 2)):
        if getattr(arguments, flag) < least:
            raise InputError(f"--{flag} {getattr(arguments, flag)}: expected at least {least}")
    chosen = open_chosen_run(arguments)

    from idr.conf.files import read_block
    from idr.evaluation.report.page import REPORT, ReportOptions, write_report
    from idr.pictures.plots import PlotConfig
    from idr.runs.api import LoadedRun

    plot = read_block(PlotConfig, chosen.conf.get("plot", {}), "plot")
    loaded = LoadedRun(chosen.folder, chosen.conf, chosen.opened.loaded, arguments.data_root)
    loaded.scene = chosen.opened  # opened already
    options = ReportOptions(
        arguments.views, arguments.side, arguments.resolution, plot.chunk_pixels, plot.chunk_points
    )
    path = arguments.out or chosen.folder / REPORT
    write_report(loaded, path, options)
    say(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def report_after_training(folder: Path, device: torch.device) -> None:
    """Writes the page of a run that just ended; where that fails, training has not, and a warning says why.

    Args:
        folder: The run.
        device: Where the network is put.
    """
    from idr.evaluation.report.page import REPORT, ReportOptions, write_report
    from idr.runs.api import load_run

    try:
        write_report(load_run(folder, device=device), folder / REPORT, ReportOptions())
    except USER_ERRORS as error:
        log.warning("no report: %s; training itself is saved", error)
    else:
        say(f"report: {folder / REPORT}")


if __name__ == "__main__":
    raise SystemExit(main())
