"""``export_cameras.py``: writes the cameras of a run or of a scene for other methods."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.confs import read_conf
from idr.cli.shared.flags import add_flags, add_run_arguments, add_switches
from idr.cli.shared.runs import check_folder, check_new, name_of_run, open_run
from idr.errors import InputError

if TYPE_CHECKING:
    from idr.geometry.camera_set import CameraSet

FORMATS = ("transforms", "colmap", "npz")
DESCRIPTION = (
    "Writes cameras as transforms.json (as nerfstudio reads it), as a COLMAP text model and as npz. Trained "
    "cameras are aligned with the given ones in world coordinates."
)
EXAMPLES = """\
  %(prog)s --conf ./confs/dtu_trained_cameras.conf --scan_id 65 --out cameras65
  %(prog)s --conf ./confs/demo.conf --scan_id 1 --cameras given --copy_images \\
      --out for_other_methods"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "export-cameras")
    add_run_arguments(parser)
    output = parser.add_argument_group("output")
    whose = "trained = the run's; given = the scene's own, which need no run"
    output.add_argument("--cameras", choices=("trained", "given"), default="trained", help=whose)
    folder = "folder to write; default: evals/<expname><suffix>[_<scan>]/cameras"
    output.add_argument("--out", type=Path, metavar="FOLDER", help=folder)
    output.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="files to write")
    add_flags(output, "coordinates")
    add_switches(
        output,
        copy_images="also copy images and masks, which makes the folder a complete scene; without it, "
        "transforms.json refers to the originals",
    )
    add_switches(output, force="replace existing files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _export)


def _export(arguments: argparse.Namespace) -> None:
    from idr.export.cameras import check_skew, files_of, write_cameras

    names = files_of(arguments.formats)
    if arguments.out:
        check_folder(arguments.out, names, arguments.force)
    if arguments.cameras == "trained":
        trained, results = open_run(arguments)
        from idr.evaluation.scene_cameras import trained_cameras

        cameras, dataset = trained_cameras(trained), trained.scene
    else:
        cameras, dataset, results = _given(arguments)
    out = arguments.out or results / "cameras"
    check_folder(out, names, arguments.force)
    if arguments.coordinates == "unit":
        cameras = cameras.in_unit_sphere()
    if set(arguments.formats) - {"npz"}:
        check_skew(cameras)
    images, masks = _images(dataset, out, arguments.copy_images, arguments.force)
    write_cameras(cameras, out, arguments.formats, images, masks)
    held_out = sum(cameras.held_out)
    what = f"{len(cameras.names) - held_out} {arguments.cameras}"
    if held_out:
        what += f" and {held_out} held-out" + (", as given" if arguments.cameras == "trained" else "")
    say(f"cameras: {what}; {arguments.coordinates} coordinates")
    for name in names:
        say(f"wrote {out / name}")


def _given(arguments: argparse.Namespace) -> tuple[CameraSet, Any, Path]:
    """Returns the scene's cameras, its training views, and the folder of a run's results of that name."""
    conf = read_conf(arguments.conf, arguments.overrides)

    from idr.conf.build import scan_id_of
    from idr.evaluation.scene_cameras import given_cameras
    from idr.runs.folders import evals_folder
    from idr.runs.views import open_dataset

    dataset = open_dataset(conf, scan_id_of(conf, arguments.scan_id), arguments.data_root)
    results = evals_folder(name_of_run(arguments, conf), evals=arguments.evals_folder)
    return given_cameras(dataset), dataset, results


def _images(dataset: Any, out: Path, copy: bool, force: bool) -> tuple[str, list[str]]:
    """Returns the image folder and the masks as `transforms.json` refers to them; copies them if `copy`."""
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
