"""``doctor.py``: what is wrong with a scene, by name, before anyone trains on it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from idr.cli.shared.common import EXIT_OK, EXIT_STOPPED, make_parser, parse, run, say

DESCRIPTION = "Examines a scene before training and names what is wrong with it, each with what to do."
EXAMPLES = """\
  python preprocess/doctor.py ../data/DTU/scan65
  python preprocess/doctor.py ../data/DTU/scan65 --use_linear_init"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    parser.add_argument("data", help="scene folder: image/, mask/, cameras.npz")
    parser.add_argument(
        "--use_linear_init", action="store_true", help="examine cameras_linear_init.npz, not cameras.npz"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv`, by default the process's own; returns the exit status.

    It is 0 for a healthy scene, 1 with findings, 2 for unusable input.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _examine(arguments))


def _examine(arguments: argparse.Namespace) -> int:
    from idr.preprocess.doctor import diagnose_scene
    from idr.preprocess.scene_views import EXACT_CAMERAS, NOISY_CAMERAS

    folder = Path(arguments.data).expanduser()
    found = diagnose_scene(folder, NOISY_CAMERAS if arguments.use_linear_init else EXACT_CAMERAS)
    for finding in found:
        say(str(finding))
    if not found:
        say(f"{folder}: masks, cameras and unit sphere fit together")
    return EXIT_STOPPED if found else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
