"""``triangulate_points.py``: sparse points of the surface from the photographs of a scene with cameras."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_flags, add_switches
from idr.errors import InputError

_EXAMPLES = """  %(prog)s --source_dir ../data/DTU/scan65
  %(prog)s --source_dir ../data/mine/scan0 --out /tmp/points.npz"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Finds points of the object that several photographs show (SIFT tracks), triangulates them with the "
        "scene's cameras, and writes them to points.npz: for loss.sparse_points in training, and for "
        "eval.py --points.",
        _EXAMPLES,
        "triangulate-points",
    )
    parser.add_argument("--source_dir", required=True, help="scene folder: image/, mask/, cameras.npz")
    parser.add_argument("--out", help="file to write; default: <source_dir>/points.npz")
    add_switches(parser, overwrite="replace the file if it exists")
    add_flags(parser, "use_linear_init")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _triangulate)


def _triangulate(arguments: argparse.Namespace) -> None:
    import numpy as np

    from idr.datasets.images import list_images, load_rgb
    from idr.datasets.points import POINTS_FILE
    from idr.files import write_atomic
    from idr.preprocess.scene_views import camera_file_of, load_views
    from idr.preprocess.triangulation import TriangulationSettings, triangulate
    from idr.replacing import check_file, mark_zip

    scene = Path(arguments.source_dir).expanduser()
    out = Path(arguments.out).expanduser() if arguments.out else scene / POINTS_FILE
    check_file(out, arguments.overwrite, force="--overwrite")
    views = load_views(scene, camera_file_of(arguments.use_linear_init))
    paths = list_images(scene / "image")
    if len(paths) != len(views):
        raise InputError(f"{scene}: {len(paths)} images but {len(views)} masks; expected one mask per image")
    images = [load_rgb(path) for path in paths]
    for path, image, mask in zip(paths, images, views.masks, strict=True):
        if image.shape[:2] != mask.shape:
            raise InputError(
                f"{path} is {image.shape[0]} x {image.shape[1]} (height x width), its mask {mask.shape[0]} x "
                f"{mask.shape[1]}; expected the same size"
            )
    found = triangulate(images, views.masks, views.projections, log=say)
    if not len(found.points):
        raise InputError(
            f"{scene}: no point is seen in {TriangulationSettings.min_track} photographs; expected a "
            "textured object and exact cameras; check them with preprocess/doctor.py, or train without "
            "loss.sparse_points"
        )

    def write(file: BinaryIO) -> None:
        np.savez(
            file, points_world=found.points, reproj_rms=found.reprojection, track_len=found.track_length
        )
        mark_zip(file)

    write_atomic(out, write)
    say(f"wrote {out}: {len(found.points):,} points, mean error {found.reprojection.mean():.2f} pixels")


if __name__ == "__main__":
    raise SystemExit(main())
