"""``eval_disentanglement.py``: geometry of one run with the appearance of another, on a camera path."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import add_conf_arguments, choose_device, make_parser, run_command, say
from idr.cli.shared.confs import check_overrides, read_conf
from idr.cli.shared.flags import add_flags, add_switches, check_frame_arguments
from idr.cli.shared.runs import check_new, check_view, find_named_run, frame_intrinsics, set_chunks
from idr.places import BESIDE_CODE
from idr.replacing import check_writable

if TYPE_CHECKING:
    from idr.export.path_frames import Path3D
    from idr.runs import Run

TRAINED_MODELS = "trained_models"
PUBLISHED_TIMESTAMP = "2020"

DESCRIPTION = (
    "Renders the surface of one trained run with the appearance network of another along a camera path. "
    f"Frames go to evals_disentanglement/<expname>_<G>_<A>/novel_views_rendering/ {BESIDE_CODE}."
)
EXAMPLES = """\
  %(prog)s --geometry_id 65 --appearance_id 110
  %(prog)s --geometry_run exps/demo_1 --appearance_run exps/other_1 \\
      --checkpoint latest --frames 60 --video turn.gif"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "disentangle")
    add_conf_arguments(parser)
    add_flags(parser, "gpu", "device")
    runs = parser.add_argument_group("runs")
    runs.add_argument("--geometry_id", type=int, default=65, help="scan of the geometry, views and cameras")
    runs.add_argument("--appearance_id", type=int, default=110, help="scan of the appearance")
    runs.add_argument(
        "--geometry_run",
        help=f"folder of the geometry's run; default: {TRAINED_MODELS}/<expname>_<G>/{PUBLISHED_TIMESTAMP}. "
        "A run's own runconf.conf, if it has one, replaces --conf",
    )
    runs.add_argument("--appearance_run", help="folder of the appearance's run; default: likewise")
    runs.add_argument("--checkpoint", default="2000", help="epoch of both checkpoints, or latest")
    for part in ("geometry", "appearance"):
        text = f"epoch of the {part}'s checkpoint; default: --checkpoint"
        runs.add_argument(f"--{part}_checkpoint", help=text)
    path = parser.add_argument_group("camera path")
    add = path.add_argument
    add("--view", type=int, default=0, help="training view whose intrinsics are used")
    add("--key_views", type=int, nargs="+", help="key views; default: 11 16 34 28 11, or spread evenly")
    add("--key_times", type=float, nargs="+", help="times of the key views; default: 0 2 3 5 6")
    distances = "distances from the origin, in radii; default: 4.2 4.2 3.8 3.8 4.2"
    add("--key_distances", type=float, nargs="+", help=distances)
    add("--frames", type=int, default=30, help="number of frames, evenly spaced in time")
    output = parser.add_argument_group("output")
    add_switches(output, force="replace an existing film")
    add_flags(output, "img_res", "video", "fps", "chunk_pixels", fps=10.0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _disentangle)


def _disentangle(arguments: argparse.Namespace) -> None:
    check_frame_arguments(arguments)
    device = choose_device(arguments.gpu, arguments.device)

    from idr.conf.build import scan_id_of
    from idr.evaluation.disentanglement import compose
    from idr.evaluation.video import check_video_path, write_video
    from idr.export.path_frames import FrameImage, FramePainter, film_frame, write_path
    from idr.runs import Run
    from idr.runs.folders import conf_of_run

    if arguments.video:
        check_video_path(arguments.video)
        check_new([arguments.video], arguments.force, "--video")
    trained = []
    for part in ("geometry", "appearance"):
        checkpoint = getattr(arguments, f"{part}_checkpoint") or arguments.checkpoint
        folder = _run_folder(arguments, part, checkpoint)
        say(f"{part}: {folder}")
        conf = conf_of_run(folder, arguments.conf, arguments.overrides)
        check_overrides(conf, arguments.overrides)
        own_scan = scan_id_of(conf) if arguments.geometry_run else None
        scan_id = arguments.geometry_id if own_scan is None else own_scan
        trained.append(Run(conf, folder, checkpoint, device, scan_id=scan_id, data_root=arguments.data_root))
    geometry, appearance = trained
    model = compose(geometry.model, appearance.model, device)
    geometry.read_scene()
    set_chunks(arguments, geometry.conf)
    path = _path(arguments, geometry)
    folder = _results_folder(arguments, geometry.folder, appearance.folder) / "novel_views_rendering"
    check_writable(folder / "eval_000.png")
    names, painter = {"color": "eval_{:03d}.png"}, FramePainter(path.depth_range(geometry.bounding_radius))
    film = []

    def on_frame(number: int, images: dict[str, FrameImage]) -> None:
        if arguments.video:
            film.append(film_frame(images["color"]))

    files = write_path(model, path, folder, names, painter, arguments.chunk_pixels, on_frame)
    say(f"frames: {folder} ({len(files)})")
    if arguments.video:
        write_video(film, arguments.video, arguments.fps)
        say(f"film: {arguments.video}")


def _path(arguments: argparse.Namespace, geometry: Run) -> Path3D:
    import numpy as np

    from idr.evaluation.disentanglement import path_keys
    from idr.export.path_frames import Path3D
    from idr.geometry.paths import camera_path

    check_view(arguments, geometry)
    intrinsics, img_res = frame_intrinsics(arguments, geometry)
    num_views = len(geometry.scene)
    keys = path_keys(num_views, arguments.key_views, arguments.key_times, arguments.key_distances)
    rotations = geometry.training_poses[list(keys.views), :3, :3].double().numpy()
    frame_times = np.linspace(keys.times[0], keys.times[-1], arguments.frames)
    poses = camera_path(rotations, keys.times, keys.distances, frame_times)
    return Path3D(intrinsics.expand(len(poses), 4, 4), poses, img_res)


def _run_folder(arguments: argparse.Namespace, part: str, checkpoint: str) -> Path:
    """Returns the folder of a part's run: the one of ``--<part>_run``, or the published one."""
    from idr.conf.files import project_root
    from idr.runs.folders import find_run, run_name

    folder = getattr(arguments, f"{part}_run")
    if folder is not None:
        return find_named_run(folder, checkpoint)
    name = run_name(_expname(arguments), "", getattr(arguments, f"{part}_id"))
    return find_run(project_root() / TRAINED_MODELS, name, PUBLISHED_TIMESTAMP, checkpoint)


def _expname(arguments: argparse.Namespace) -> str:
    from idr.conf.build import conf_value

    return str(conf_value(read_conf(arguments.conf, arguments.overrides), "train.expname"))


def _results_folder(arguments: argparse.Namespace, geometry_run: Path, appearance_run: Path) -> Path:
    """Returns a folder named by the conf and the scans, or by the runs if they are given."""
    from idr.conf.files import project_root

    root = project_root() / "evals_disentanglement"
    if arguments.geometry_run or arguments.appearance_run:
        return root / f"{geometry_run.parent.name}_{appearance_run.parent.name}"
    return root / f"{_expname(arguments)}_{arguments.geometry_id}_{arguments.appearance_id}"


if __name__ == "__main__":
    raise SystemExit(main())
