"""``eval_disentanglement.py``: the geometry of one run in the appearance of another, along a camera path."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import (
    add_conf_arguments,
    add_device_arguments,
    choose_device,
    make_parser,
    parse,
    run,
    say,
)
from idr.cli.shared.runs import locate_given_run
from idr.errors import InputError

if TYPE_CHECKING:
    from pyhocon import ConfigTree

log = logging.getLogger("idr.cli.disentanglement")

TRAINED_MODELS = "trained_models"
PUBLISHED_TIMESTAMP = "2020"

DESCRIPTION = (
    "Renders the surface of one trained run with the appearance network of another along a camera path. "
    "Frames go to evals_disentanglement/<expname>_<G>_<A>/novel_views_rendering/ beside code/."
)
EXAMPLES = """\
  python evaluation/eval_disentanglement.py --geometry_id 65 --appearance_id 110
  python evaluation/eval_disentanglement.py --geometry_run exps/demo_1 --appearance_run exps/other_1 \\
      --checkpoint latest --frames 60 --video turn.gif"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    add_conf_arguments(parser)
    add_device_arguments(parser)
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--geometry_id", type=int, default=65, help="scan that gives geometry, views and cameras"
    )
    runs.add_argument("--appearance_id", type=int, default=110, help="scan that gives the appearance")
    runs.add_argument(
        "--geometry_run",
        help=f"folder of the geometry's run; default: {TRAINED_MODELS}/<expname>_<G>/{PUBLISHED_TIMESTAMP}. "
        "A run's own runconf.conf, if it has one, stands in for --conf",
    )
    runs.add_argument("--appearance_run", help="folder of the appearance's run, likewise")
    runs.add_argument("--checkpoint", default="2000", help="epoch of both checkpoints, or latest")
    runs.add_argument(
        "--geometry_checkpoint", help="epoch of the geometry's checkpoint; default: --checkpoint"
    )
    runs.add_argument(
        "--appearance_checkpoint", help="epoch of the appearance's checkpoint; default: --checkpoint"
    )
    path = parser.add_argument_group("camera path")
    path.add_argument("--view", type=int, default=0, help="training view whose intrinsics are used")
    path.add_argument(
        "--key_views", type=int, nargs="+", help="views passed; default: 11 16 34 28 11, or spread"
    )
    path.add_argument("--key_times", type=float, nargs="+", help="when; default: 0 2 3 5 6")
    path.add_argument(
        "--key_distances",
        type=float,
        nargs="+",
        help="from the origin, in radii; default: 4.2 4.2 3.8 3.8 4.2",
    )
    path.add_argument("--frames", type=int, default=30, help="number of frames, spread evenly over the times")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--img_res", type=int, nargs=2, metavar=("H", "W"), help="size; default: the photographs'"
    )
    output.add_argument("--video", type=Path, help="also write a film, .gif or .mp4 (MP4 needs idr[video])")
    output.add_argument("--fps", type=float, default=10.0, help="frames a second of the film")
    output.add_argument(
        "--chunk_pixels", type=int, help="pixels rendered at once; default: plot.chunk_pixels"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _disentangle(arguments))


def _check(arguments: argparse.Namespace) -> None:
    """Refuses values out of range before anything is loaded."""
    if arguments.frames < 1:
        raise InputError(f"--frames {arguments.frames}: expected at least 1")
    if not arguments.fps > 0:
        raise InputError(f"--fps {arguments.fps}: expected a positive number")
    if arguments.chunk_pixels is not None and arguments.chunk_pixels < 1:
        raise InputError(f"--chunk_pixels {arguments.chunk_pixels}: expected at least 1")
    if arguments.img_res and min(arguments.img_res) < 1:
        raise InputError(f"--img_res {arguments.img_res}: expected height and width of at least 1")


def _disentangle(arguments: argparse.Namespace) -> None:
    _check(arguments)
    device = choose_device(arguments.gpu, arguments.device)

    import numpy as np

    from idr.conf.files import read_block
    from idr.evaluation import disentanglement as mixing
    from idr.evaluation.reconstruction import join_scene
    from idr.evaluation.video import check_video_path, write_video
    from idr.export.path_frames import FramePainter, Path3D, Picture, film_frame, write_path
    from idr.geometry.cameras import resized_intrinsics
    from idr.geometry.paths import camera_path
    from idr.pictures.plots import PlotConfig
    from idr.runs.opened import conf_of_run, load_model

    if arguments.video:
        check_video_path(arguments.video)
    geometry_checkpoint = arguments.geometry_checkpoint or arguments.checkpoint
    appearance_checkpoint = arguments.appearance_checkpoint or arguments.checkpoint
    geometry_run = _run_folder(arguments, arguments.geometry_run, arguments.geometry_id, geometry_checkpoint)
    appearance_run = _run_folder(
        arguments, arguments.appearance_run, arguments.appearance_id, appearance_checkpoint
    )
    say(f"geometry: {geometry_run}")
    say(f"appearance: {appearance_run}")
    conf = conf_of_run(geometry_run, arguments.conf, arguments.overrides)
    appearance_conf = conf_of_run(appearance_run, arguments.conf, arguments.overrides)
    geometry = load_model(conf, geometry_run, geometry_checkpoint, device)
    appearance = load_model(appearance_conf, appearance_run, appearance_checkpoint, device)
    model = mixing.compose(geometry, appearance)

    scan_id = _geometry_scan(arguments, conf)
    scene = join_scene(geometry, conf, scan_id, arguments.data_root)
    num_views = len(scene.dataset)
    if not 0 <= arguments.view < num_views:
        raise InputError(f"--view {arguments.view}: the scene has training views 0 to {num_views - 1}")
    keys = mixing.path_keys(num_views, arguments.key_views, arguments.key_times, arguments.key_distances)
    rotations = scene.training_poses[list(keys.views), :3, :3].double().numpy()
    frame_times = np.linspace(keys.times[0], keys.times[-1], arguments.frames)
    poses = camera_path(rotations, keys.times, keys.distances, frame_times)

    own_res = (int(scene.dataset.img_res[0]), int(scene.dataset.img_res[1]))
    img_res = (arguments.img_res[0], arguments.img_res[1]) if arguments.img_res else own_res
    intrinsics = resized_intrinsics(scene.training_intrinsics[arguments.view], own_res, img_res).to(device)
    path = Path3D(intrinsics.expand(len(poses), 4, 4), poses, img_res)
    chunk_pixels = arguments.chunk_pixels or read_block(PlotConfig, conf.get("plot", {}), "plot").chunk_pixels
    folder = _results_folder(arguments, geometry_run, appearance_run) / "novel_views_rendering"
    names, painter = {"color": "eval_{:03d}.png"}, FramePainter(path.depth_range(geometry.bounding_radius))
    film = []

    def on_frame(number: int, pictures: dict[str, Picture]) -> None:
        log.info("frame %d of %d", number + 1, len(poses))
        if arguments.video:
            film.append(film_frame(pictures["color"]))

    files = write_path(model, path, folder, names, painter, chunk_pixels, on_frame)
    say(f"frames: {folder} ({len(files)})")
    if arguments.video:
        write_video(film, arguments.video, arguments.fps)
        say(f"film: {arguments.video}")


def _run_folder(arguments: argparse.Namespace, given: str | None, scan_id: int, checkpoint: str) -> Path:
    """Finds a run from the folder given, in the working directory or beside code/, or the published one."""
    from idr.conf.build import conf_value
    from idr.conf.files import load_conf, project_root
    from idr.runs.folders import find_run, run_name

    if given is not None:
        return locate_given_run(given, checkpoint)
    expname = str(conf_value(load_conf(arguments.conf, arguments.overrides), "train.expname"))
    name = run_name(expname, "", scan_id)
    return find_run(project_root() / TRAINED_MODELS, name, PUBLISHED_TIMESTAMP, checkpoint)


def _geometry_scan(arguments: argparse.Namespace, conf: ConfigTree) -> int | None:
    """Returns the scene of the geometry: a given run's own, else --geometry_id."""
    from idr.conf.build import scan_id_of

    own = scan_id_of(conf) if arguments.geometry_run else None
    return arguments.geometry_id if own is None else own


def _results_folder(arguments: argparse.Namespace, geometry_run: Path, appearance_run: Path) -> Path:
    """Names the results after the conf and the scans, or after the runs where these were given."""
    from idr.conf.build import conf_value
    from idr.conf.files import load_conf, project_root

    root = project_root() / "evals_disentanglement"
    if arguments.geometry_run or arguments.appearance_run:
        return root / f"{geometry_run.parent.name}_{appearance_run.parent.name}"
    expname = conf_value(load_conf(arguments.conf, arguments.overrides), "train.expname")
    return root / f"{expname}_{arguments.geometry_id}_{arguments.appearance_id}"


if __name__ == "__main__":
    raise SystemExit(main())
