"""``summary.py``: one table of the evaluations of all scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from idr.cli.shared.commands import command_line
from idr.cli.shared.common import add_conf_arguments, make_parser, run_command, say
from idr.cli.shared.confs import read_conf
from idr.cli.shared.flags import add_flags
from idr.errors import MissingInputError

DESCRIPTION = (
    "Collects the results of eval.py and eval_mesh.py for all scans of a conf, with means, in "
    "evals/<expname><suffix>_summary.json, .csv and .md. Evaluates nothing itself."
)
EXAMPLES = """\
  %(prog)s --conf ./confs/dtu_fixed_cameras.conf
  %(prog)s --conf ./confs/dtu_fixed_cameras.conf --scans 24 37 40"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "summary")
    add_conf_arguments(parser)
    add_flags(parser, "expname", "evals_folder")
    scans = "scans of the table; default: all evaluated ones"
    parser.add_argument("--scans", type=int, nargs="+", metavar="N", help=scans)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _summarize)


def _summarize(arguments: argparse.Namespace) -> None:
    from idr.conf.build import conf_value
    from idr.evaluation.summary import find_scans, read_scan, write_summary
    from idr.runs.folders import evals_folder, run_name

    conf = read_conf(arguments.conf, arguments.overrides)
    name = run_name(str(conf_value(conf, "train.expname")), arguments.expname)
    folder = evals_folder(name, evals=arguments.evals_folder)
    found = find_scans(folder.parent, name)
    if arguments.scans:
        missing = [scan for scan in arguments.scans if scan not in found]
        if missing:
            flags = ["--expname", arguments.expname] if arguments.expname else []
            flags += ["--scan_id", str(missing[0])]
            raise MissingInputError(
                f"--scans {' '.join(map(str, missing))}: not evaluated (no {name}_<scan>/results.json in "
                f"{folder.parent}); run {command_line('eval', '--conf', arguments.conf, *flags)}"
            )
        found = {scan: found[scan] for scan in arguments.scans}
    scans = []
    for scan, place in found.items():
        scores, notes = read_scan(scan, place)
        scans.append(scores)
        for note in notes:
            say(f"WARNING: {note}")
    path = folder.with_name(f"{name}_summary")
    say(write_summary(scans, path).rstrip())
    say(f"written: {path}.json, {path}.csv, {path}.md")


if __name__ == "__main__":
    raise SystemExit(main())
