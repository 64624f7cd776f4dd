"""Imports a scene of another program as a data folder."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.common import make_parser, parse, run, say
from idr.errors import InputError

if TYPE_CHECKING:
    from idr.importers.scene_folder import Imported

KINDS = ("transforms", "neus", "idr", "middlebury", "colmap", "projections")
_EXAMPLES = """  python preprocess/import_scene.py ~/captures/mug --out ../data/mine/scan0 --masks auto
  python preprocess/import_scene.py ~/nerf_synthetic/lego --out ../data/lego/scan1 --downscale 2
  python preprocess/import_scene.py ~/colmap/shoe --out ../data/mine/scan2 --masks ~/colmap/shoe/masks
  python preprocess/import_scene.py ~/mug --out ../data/mine/scan3 --mask_command 'segment {image} {mask}'"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser(
        "Writes a data folder (image/, mask/, cameras.npz) from a scene of nerfstudio, Blender, COLMAP, "
        "NeuS, "
        "IDR, Middlebury, or with a text file of a 3 x 4 projection for each image. Lens distortion is "
        "removed, "
        "missing masks can be made, the unit sphere is found.",
        _EXAMPLES,
    )
    parser.add_argument("source", type=str, metavar="SOURCE", help="folder (or file) of the scene")
    parser.add_argument("--out", type=str, required=True, help="folder to write: data/<dir>/scan<N>")
    parser.add_argument("--kind", choices=KINDS, default=None, help="what SOURCE is; default: recognised")
    parser.add_argument(
        "--images", type=str, default=None, help="folder of the images, if not found by itself"
    )
    parser.add_argument(
        "--masks",
        type=str,
        default=None,
        help="folder of masks for the photographs as they are, alpha (their alpha channel), or auto (made "
        "from photographs and cameras); default: the source's masks, else its alpha channel",
    )
    parser.add_argument(
        "--mask_command",
        type=str,
        default=None,
        metavar="COMMAND",
        help="program that makes a mask: 'prog {image} {mask}', called for each image",
    )
    parser.add_argument(
        "--points",
        type=str,
        default=None,
        help="sparse points on the object (ply, npz, npy, txt), for --masks auto and --sphere points; "
        "default: the source's",
    )
    parser.add_argument(
        "--sphere",
        choices=("auto", "hull", "points", "source"),
        default="auto",
        help="unit sphere from the visual hull of the masks, from sparse points, or the source's own; "
        "auto = the source's own if it has one, else hull",
    )
    parser.add_argument("--downscale", type=int, default=1, help="factor by which images shrink")
    parser.add_argument(
        "--pixel_centre",
        type=float,
        choices=(0.0, 0.5),
        default=None,
        help="where SOURCE has the centre of the first pixel; default: its kind's convention",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a scene that was imported to --out before"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments; None for the process's own.

    Returns:
        Exit status: 0, or 2 after a user's mistake.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _import(arguments))


def _import(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out).expanduser().resolve()
    if not re.fullmatch(r"scan\d+", out.name):
        raise InputError(f"--out {arguments.out}: expected a folder named scan<N>, such as data/mine/scan0")
    if arguments.downscale < 1:
        raise InputError(f"--downscale {arguments.downscale}: expected a whole factor of 1 or more")
    from idr.importers.points import read_points
    from idr.importers.recognise import read_source
    from idr.importers.scene_folder import Options, check_target, write_scene

    began = time.monotonic()
    check_target(out, arguments.force)
    path = Path(arguments.source).expanduser()
    images = Path(arguments.images).expanduser() if arguments.images else None
    source = read_source(path, arguments.kind, images, arguments.pixel_centre)
    sparse = f", {len(source.points)} sparse points" if source.points is not None else ""
    say(f"{path}: {source.kind}, {len(source.views)} views{sparse}")
    points = read_points(Path(arguments.points).expanduser()) if arguments.points else None
    options = Options(
        arguments.masks,
        arguments.mask_command,
        arguments.sphere,
        arguments.downscale,
        points,
        arguments.force,
    )
    done = write_scene(source, out, options, str(path.resolve()), say)
    _say_done(done, time.monotonic() - began)


def _say_done(done: Imported, seconds: float) -> None:
    """Prints what was written and what to type next."""
    from idr.config import project_root

    height, width = done.size
    for note in done.notes:
        say(note)
    center = ", ".join(f"{value:.6g}" for value in done.sphere.center)
    say(f"unit sphere: centre ({center}), radius {done.sphere.radius:.6g}, from {done.sphere.origin}")
    for warning in done.warnings:
        say(f"WARNING: {warning}")
    say(f"wrote {done.folder}: {done.num_views} views of {width} x {height} pixels, in {seconds:.0f} s")
    say(f"masks ({done.mask_source}): look at {done.folder / 'masks.png'}")
    data_root, data_dir = done.folder.parent.parent, done.folder.parent.name
    say(f"conf: dataset {{ data_dir = {data_dir}, img_res = [{height}, {width}] }}")
    elsewhere = "" if data_root == project_root() / "data" else f" --data_root {data_root}"
    say("next, from code/:")
    say(f"  python preprocess/check_scene.py --source_dir {done.folder}")
    say(
        "  python training/exp_runner.py --conf ./confs/dtu_fixed_cameras.conf --scan_id "
        f"{done.folder.name[4:]} "
        f"--set dataset.data_dir={data_dir} --set dataset.img_res=[{height},{width}]{elsewhere}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
