"""``export_cameras.py``: a run's trained cameras, or a scene's given ones, for other methods."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import make_parser, parse, run, say
from idr.cli.shared.runs import add_run_arguments, check_new, open_chosen_run
from idr.errors import InputError

if TYPE_CHECKING:
    from idr.geometry.camera_set import CameraSet

FORMATS = ("transforms", "colmap", "npz")
DESCRIPTION = (
    "Writes cameras as transforms.json (nerfstudio's flavour), as a COLMAP text model and as npz. Trained "
    "cameras are brought to world coordinates by their alignment with the given ones."
)
EXAMPLES = """\
  python evaluation/export_cameras.py --conf ./confs/dtu_trained_cameras.conf --scan_id 65 --out cameras65
  python evaluation/export_cameras.py --conf ./confs/demo.conf --scan_id 1 --cameras given --copy_images \\
      --out for_other_methods"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add_run_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--cameras",
        choices=("trained", "given"),
        default="trained",
        help="trained = the run's; given = the scene's own, for which no run is needed",
    )
    output.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder to write; default: evals/<expname><suffix>[_<scan>]/cameras",
    )
    output.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="what to write")
    output.add_argument(
        "--coordinates",
        choices=("world", "unit"),
        default="world",
        help="world = the given cameras'; unit = the sphere of radius 1 around the object",
    )
    output.add_argument(
        "--copy_images",
        action="store_true",
        help="copy images and masks there, too, so that the folder is a whole scene; otherwise "
        "transforms.json names them where they are",
    )
    output.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> None:
    from idr.export.cameras import check_skew, files_of, write_cameras

    names = files_of(arguments.formats)
    if arguments.out:
        _check_folder(arguments.out, names, arguments.force)
    cameras, dataset, results = _trained(arguments) if arguments.cameras == "trained" else _given(arguments)
    out = arguments.out or results / "cameras"
    _check_folder(out, names, arguments.force)
    if arguments.coordinates == "unit":
        cameras = cameras.in_unit_sphere()
    if set(arguments.formats) - {"npz"}:
        check_skew(cameras)
    images, masks = _images(dataset, out, arguments.copy_images, arguments.force)
    write_cameras(cameras, out, arguments.formats, images, masks)
    held_out = sum(cameras.held_out)
    what = f"{len(cameras.names) - held_out} {arguments.cameras}"
    what += f" and {held_out} held-out, as given" if held_out and arguments.cameras == "trained" else ""
    what += f" and {held_out} held-out" if held_out and arguments.cameras == "given" else ""
    say(f"cameras: {what}; {arguments.coordinates} coordinates")
    for name in names:
        say(f"wrote {out / name}")


def _check_folder(out: Path, names: list[str], force: bool) -> None:
    if out.is_file():
        raise InputError(f"--out {out} is a file; expected a folder")
    check_new([out / name for name in names], force)


def _trained(arguments: argparse.Namespace) -> tuple[CameraSet, Any, Path]:
    """The run's cameras, a split of its scene, and the folder of its results."""
    chosen = open_chosen_run(arguments)
    from idr.evaluation.scene_cameras import trained_cameras
    from idr.runs.folders import evals_folder

    return trained_cameras(chosen.opened), chosen.opened.dataset, evals_folder(chosen.name)


def _given(arguments: argparse.Namespace) -> tuple[CameraSet, Any, Path]:
    """The scene's cameras, a split of it, and the folder of a run's results of that name."""
    from idr.conf.files import load_conf

    conf = load_conf(arguments.conf, arguments.overrides)
    from idr.conf.build import conf_value, scan_id_of
    from idr.evaluation.scene_cameras import given_cameras
    from idr.runs.folders import evals_folder, run_name
    from idr.runs.opened import open_dataset

    scan_id = scan_id_of(conf, arguments.scan_id)
    dataset = open_dataset(conf, scan_id, arguments.data_root)
    name = run_name(str(conf_value(conf, "train.expname")), arguments.expname, scan_id)
    return given_cameras(dataset), dataset, evals_folder(name)


def _images(dataset: Any, out: Path, copy: bool, force: bool) -> tuple[str, list[str]]:
    """Names the images' folder and the masks for `transforms.json`; copies them if asked."""
    from idr.datasets.images import list_images
    from idr.files import make_folder, output_errors, write_atomic

    if not copy:
        with output_errors(out):
            relative = Path(os.path.relpath(dataset.instance_dir.resolve(), out.resolve()))
        masks = [str(relative / "mask" / path.name) for path in list_images(dataset.instance_dir / "mask")]
        return str(relative / "image"), masks
    listed = {kind: list_images(dataset.instance_dir / kind) for kind in ("image", "mask")}
    copies = {out / kind / path.name: path for kind, paths in listed.items() for path in paths}
    if out.resolve() == dataset.instance_dir.resolve():
        raise InputError(f"--out {out} is the scene itself; expected another folder for a copy")
    check_new(list(copies), force)
    for target, path in copies.items():
        make_folder(target.parent)
        with path.open("rb") as source:
            write_atomic(target, partial(shutil.copyfileobj, source))
    return "image", [f"mask/{path.name}" for path in listed["mask"]]


if __name__ == "__main__":
    raise SystemExit(main())
