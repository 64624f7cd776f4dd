"""``board.py``: the board that gives photographs their true size, as a PDF to print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_switches

PAPERS, TAGS = ("a4", "letter"), ("aruco", "april")
_EXAMPLES = """  %(prog)s
  %(prog)s --paper letter --side 20 --tags april --out board.pdf"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Writes a chessboard with markers (ChArUco) as a PDF to print at true size. Photographs that show it "
        "beside the object are scaled to meters by --scale_by board of import_scene.py and idr photos.",
        _EXAMPLES,
        "board",
    )
    parser.add_argument("--paper", choices=PAPERS, default="a4", help="size of the page")
    parser.add_argument("--side", type=float, default=25.0, metavar="MM", help="side of a square, mm")
    parser.add_argument(
        "--tags", choices=TAGS, default="aruco", help="markers of the board: ArUco or AprilTag (36h11)"
    )
    parser.add_argument("--out", type=Path, default=Path("board.pdf"), metavar="FILE", help="file to write")
    add_switches(parser, force="replace an existing file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _write)


def _write(arguments: argparse.Namespace) -> None:
    from idr.files import write_atomic
    from idr.importers.true_size.board import draw_page
    from idr.replacing import check_file

    out = arguments.out.expanduser()
    check_file(out, arguments.force)
    page, dpi = draw_page(arguments.paper, arguments.side, arguments.tags)
    write_atomic(out, lambda file: page.save(file, format="PDF", resolution=dpi, title="idr board"))
    say(
        f"wrote {out}: squares of {arguments.side:g} mm; print it at 100 %, measure a square, and import the "
        "photographs with --scale_by board:MM (the side measured)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
