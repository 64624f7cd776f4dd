"""``preprocess_cameras.py``: fits the object's bounding sphere and writes it as the scene's scale_mat."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_flags, add_switches
from idr.errors import USER_ERRORS, InputError, MissingInputError
from idr.places import BESIDE_CODE, shipped_name

if TYPE_CHECKING:
    from idr.preprocess.bounding_sphere import SphereFit
    from idr.preprocess.scene_views import SceneViews

_EXAMPLES = """  %(prog)s --source_dir ../data/DTU/scan65
  %(prog)s --source_dir ../data/DTU/scan65 --use_linear_init
  %(prog)s --dtu
  %(prog)s --source_dir ../data/mine/scan0 --dry_run"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Fits a sphere around the object from mask/ and the world_mats of cameras.npz, and writes it into "
        "that file as the scale_mat of all views, which training reads. The original file is kept as "
        "cameras_backup.npz. check_scene.py draws the result.",
        _EXAMPLES,
        "preprocess-cameras",
    )
    parser.add_argument("--source_dir", default="", help="scene folder that holds mask/ and cameras.npz")
    add_switches(parser, dtu="all scenes <data_root>/DTU/scan* instead of one")
    add_flags(parser, "use_linear_init")
    data_root = f"folder that holds DTU/ for --dtu; default: data/ {BESIDE_CODE}"
    parser.add_argument("--data_root", help=data_root)
    add_switches(parser, dry_run="print the result and write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _preprocess)


def _preprocess(arguments: argparse.Namespace) -> None:
    if bool(arguments.source_dir) == arguments.dtu:
        raise InputError(
            f"got {'both' if arguments.dtu else 'neither'} --source_dir and --dtu; expected one of them: "
            "--source_dir FOLDER for one scene, --dtu for all of data/DTU/scan*"
        )
    how = arguments.use_linear_init, arguments.dry_run
    if not arguments.dtu:
        _preprocess_scene(Path(arguments.source_dir).expanduser(), *how)
        return
    scenes = _dtu_scenes(arguments.data_root)
    failed = []
    for scene_dir in scenes:
        try:
            _preprocess_scene(scene_dir, *how)
        except USER_ERRORS as error:
            say(f"{scene_dir.name}: FAILED: {error}")
            failed.append(f"{scene_dir.name} ({error})")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(scenes)} scenes failed, the others are done: " + "; ".join(failed)
        )


def _dtu_scenes(data_root: str | None) -> list[Path]:
    from idr.conf.files import project_root
    from idr.datasets.images import natural_sorted

    folder = (Path(data_root).expanduser() if data_root else project_root() / "data") / "DTU"
    scenes = natural_sorted(path for path in folder.glob("scan*") if path.is_dir())
    if not scenes:
        raise MissingInputError(
            f"no scenes {folder / 'scan*'}; expected folders such as scan65: "
            f"{shipped_name('data/download_data.sh')} fetches them, --data_root names another place"
        )
    return scenes


def _preprocess_scene(scene_dir: Path, use_linear_init: bool, dry_run: bool) -> None:
    from idr.datasets.camera_files import check_intrinsics
    from idr.preprocess.bounding_sphere import fit_sphere
    from idr.preprocess.scene_views import camera_file_of, load_views, write_scale_mats

    camera_file = camera_file_of(use_linear_init)
    views = load_views(scene_dir, camera_file)
    check_intrinsics(scene_dir / camera_file, views.intrinsics)
    try:
        fit = fit_sphere(views)
    except InputError as error:
        raise InputError(f"{scene_dir}: {error}") from error
    _say_fit(scene_dir, views, fit)

    path = scene_dir / camera_file
    if dry_run:
        say(f"dry run: {path} is unchanged")
        return
    backup = write_scale_mats(path, fit.center, fit.radius)
    kept = "the original stays as it was kept" if backup is None else f"the original is kept as {backup.name}"
    say(f"wrote {len(views)} scale_mats to {path}; {kept}")


def _say_fit(scene_dir: Path, views: SceneViews, fit: SphereFit) -> None:
    center = ", ".join(f"{value:.6g}" for value in fit.center)
    say(f"{scene_dir.name}: {len(views)} views: center = ({center}) ; radius = {fit.radius:.6g}")
    hull = fit.hull
    say(
        f"hull: {len(hull.points)} samples {hull.spacing:.4g} apart, volume "
        f"{len(hull.points) * hull.spacing**3:.4g}, best point seen by {hull.most_views} of {len(views)} "
        "views"
    )
    say("view  mask              margin (of radius)  IoU hull/mask")
    margins = 1.0 - fit.outline_radius / fit.radius
    for k, (name, margin, iou) in enumerate(zip(views.names, margins, fit.hull_iou, strict=True)):
        say(f"{k:4d}  {name:16s} {margin:19.3f} {iou:14.3f}")
    worst = ", ".join(
        f"{views.names[k]} {fit.hull_iou[k]:.3f}" for k in fit.hull_iou.argsort(kind="stable")[:3]
    )
    tightest = int(margins.argmin())
    say(f"mean IoU {fit.hull_iou.mean():.3f} ; worst: {worst} ; tightest mask: {views.names[tightest]}")
    if fit.radius > fit.rule_radius:
        say(f"radius enlarged from {fit.rule_radius:.6g} so that every mask lies inside the sphere")
    for warning in fit.warnings:
        say(f"WARNING: {warning}")


if __name__ == "__main__":
    raise SystemExit(main())
