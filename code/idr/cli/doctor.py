"""``doctor.py``: names what is wrong with a scene before training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from idr.cli.shared.common import EXIT_OK, EXIT_STOPPED, make_parser, run_command, say
from idr.cli.shared.flags import add_flags
from idr.failures import Finding

DESCRIPTION = "Examines a scene before training; names each problem and its remedy."
EXAMPLES = """\
  %(prog)s ../data/DTU/scan65
  %(prog)s ../data/DTU/scan65 --use_linear_init"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "doctor")
    parser.add_argument("data", help="scene folder: image/, mask/, cameras.npz")
    add_flags(parser, "use_linear_init")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments; returns the exit status.

    It is 0 for a healthy scene, 1 with severe findings, 2 for unusable input. Mild findings are printed, and
    do not count.
    """
    return run_command(build_parser(), argv, _examine, listing=True)


def _examine(arguments: argparse.Namespace) -> int:
    from idr.preprocess.scene_check import diagnose_scene
    from idr.preprocess.scene_views import camera_file_of

    folder = Path(arguments.data).expanduser()
    findings = diagnose_scene(folder, camera_file_of(arguments.use_linear_init))
    return EXIT_STOPPED if say_findings(findings, f"{folder}: ") else EXIT_OK


def say_findings(findings: Sequence[Finding], scene: str = "") -> list[str]:
    """Prints findings, or that the `scene` has no severe ones; returns the names of these."""
    severe = [finding.name for finding in findings if finding.is_severe]
    for finding in findings:
        say(f"{'' if finding.is_severe else 'note: '}{finding}")
    if not severe:
        say(f"{scene}masks, cameras and unit sphere fit together")
    return severe


if __name__ == "__main__":
    raise SystemExit(main())
