"""``check_scene.py``: draws bounding sphere, visual hull and masks over the photographs of a scene."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_flags, add_switches
from idr.replacing import check_file, is_own_page

if TYPE_CHECKING:
    from idr.preprocess.scene_check import SceneCheck

_EXAMPLES = """  %(prog)s --source_dir ../data/DTU/scan65
  %(prog)s --source_dir ../data/mine/scan0 --out /tmp/check"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Draws the projected unit sphere, the visual hull and the masks over every image of a scene, and "
        "lists the views in which they disagree. In a good scene every mask lies inside the sphere, and the "
        "hull follows the masks.",
        _EXAMPLES,
        "check",
    )
    parser.add_argument("--source_dir", required=True, help="scene folder: image/, mask/, cameras.npz")
    parser.add_argument("--out", help="folder for the images; default: <source_dir>/check")
    add_flags(parser, "use_linear_init")
    add_switches(parser, force="replace existing files of these names that are not this command's")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments; returns the exit status.

    It is 0 also if views do not fit.
    """
    return run_command(build_parser(), argv, _check)


def _check(arguments: argparse.Namespace) -> None:
    from idr.datasets.record import read_true_size, title_of_scene
    from idr.preprocess.scene_check import check_scene
    from idr.preprocess.scene_drawing import SHEET, draw_scene
    from idr.preprocess.scene_report import REPORT, write_scene_report
    from idr.preprocess.scene_views import camera_file_of

    scene_dir = Path(arguments.source_dir).expanduser()
    out = Path(arguments.out).expanduser() if arguments.out else scene_dir / "check"
    ours = is_own_page(out / REPORT)
    for path in (out / REPORT, out / SHEET, *sorted(out.glob("check_*.png"))):
        check_file(path, arguments.force or ours)
    check = check_scene(scene_dir, camera_file_of(arguments.use_linear_init))
    _say_findings(check)
    sheet = draw_scene(check, out)
    title, true_size = title_of_scene(scene_dir), read_true_size(scene_dir)
    write_scene_report(check, out / REPORT, title, true_size=true_size)
    say(f"pictures: {sheet} and, in the same folder, one check_<image>.png per view")
    say(f"report: open {out / REPORT}")


def _say_findings(check: SceneCheck) -> None:
    center = ", ".join(f"{value:.6g}" for value in check.center)
    say(f"unit sphere: center ({center}), radius {check.radius:.6g} in world units")
    say("view  mask             reaches (of radius)  IoU hull/mask  camera at (radii)  warnings")
    for k, view in enumerate(check.checks):
        say(
            f"{k:4d}  {view.name:16s} {view.outline_radius:20.3f} {view.hull_iou:14.3f} "
            f"{view.distance:18.2f}  " + "; ".join(view.warnings)
        )
    flagged = sum(bool(view.warnings) for view in check.checks)
    for finding in check.findings:
        say(f"WARNING: {finding}")
    say(
        f"{len(check.checks)} views, {flagged} with warnings, {len(check.findings)} warnings about the "
        "whole scene"
    )


if __name__ == "__main__":
    raise SystemExit(main())
