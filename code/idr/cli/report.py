"""``report.py``: one self-contained HTML page about a run."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import (
    SUPERSAMPLES,
    add_flags,
    add_run_arguments,
    add_switches,
    check_at_least,
    check_within,
)
from idr.cli.shared.runs import open_run
from idr.errors import USER_ERRORS
from idr.replacing import check_file, is_own_page

if TYPE_CHECKING:
    import torch

log = logging.getLogger("idr.cli.report")

DESCRIPTION = (
    "Writes report.html into a run's folder, one file with the turnable, colored surface and its cameras, "
    "scores, photographs, renderings and error maps, training curves, conf and versions."
)
EXAMPLES = """\
  %(prog)s --conf ./confs/dtu_fixed_cameras.conf --scan_id 65
  %(prog)s --conf ./confs/demo.conf --views 12 --out demo.html"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "report")
    add_run_arguments(parser)
    parser.add_argument("--out", type=Path, help="file to write; default: report.html in the run's folder")
    add_switches(parser, force="replace an existing file that is no report")
    parser.add_argument("--title", help="title of the page; default: the scene's name")
    parser.add_argument("--views", type=int, default=6, help="number of training views, spread evenly")
    parser.add_argument("--side", type=int, default=320, help="most pixels along the longer side of an image")
    add_flags(parser, "resolution", "supersample", resolution=128)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _report)


def _report(arguments: argparse.Namespace) -> None:
    check_at_least(arguments, views=1, side=1, resolution=2)
    check_within(arguments, supersample=SUPERSAMPLES)
    if arguments.out:
        check_file(arguments.out, arguments.force, is_own_page)
    trained, _ = open_run(arguments)

    from idr.evaluation.report.page import REPORT, ReportOptions, write_report

    path = arguments.out or trained.folder / REPORT
    check_file(path, arguments.force, is_own_page)
    names = ("views", "side", "resolution", "chunk_pixels", "chunk_points", "supersample", "title")
    given = {name: getattr(arguments, name) for name in names}
    write_report(trained, path, ReportOptions(**given, command=_own_command()))
    say(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def report_after_training(folder: Path, device: torch.device) -> None:
    """Writes the page of a run whose training has just ended; a failure is only a warning."""
    from idr.evaluation.report.page import REPORT, ReportOptions, write_report
    from idr.runs import load_run

    options = ReportOptions(command=_own_command())
    try:
        check_file(folder / REPORT, False, is_own_page)
        write_report(load_run(folder, device=device), folder / REPORT, options)
    except USER_ERRORS as error:
        log.warning("no report: %s; training itself is saved", error)
    else:
        say(f"report: {folder / REPORT}")


def _own_command() -> str:
    """Returns the command line of this process, without the folder of its program."""
    name = Path(sys.argv[0]).name
    return shlex.join(["idr" if name == "__main__.py" else name, *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
