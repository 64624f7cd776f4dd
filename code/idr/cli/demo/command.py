"""``make demo`` and ``make peek``: the whole job on the built-in scene, without any data from elsewhere."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.demo.report import SHOWN_VIEWS, Scores, score_table, write_demo_overview
from idr.cli.shared.common import add_device_arguments, choose_device, make_parser, parse, run, say
from idr.errors import InputError

if TYPE_CHECKING:
    import torch

    from idr.evaluation.reconstruction import Reconstruction
    from idr.evaluation.results import RenderingScores

log = logging.getLogger("idr.cli.demo.command")

DESCRIPTION = (
    "Reconstructs the built-in scene: writes it, trains once with exact cameras and once from noisy ones, "
    "meshes, renders, measures. What is done already is not done again."
)
SCAN_ID = 1
PEEK_RUN = "trained_models"
RESOLUTION = 160
PEEK_RESOLUTION = 96  # coarser than the demo's: done within a minute


@dataclass(frozen=True)
class Plan:
    """One training run of the demo.

    Attributes:
        title: Column of the table.
        conf: Its conf.
        num_epochs: Passes over the images.
        batch_size: Images a step.
        train_cameras: Start from the noisy cameras and correct them.
    """

    title: str
    conf: str
    num_epochs: int
    batch_size: int
    train_cameras: bool


EXACT, NOISY = "exact cameras", "noisy cameras, trained"
FAST = (
    Plan(EXACT, "./confs/fast.conf", 113, 1, False),
    Plan(NOISY, "./confs/fast_demo_trained_cameras.conf", 120, 1, True),
)
PUBLISHED = (
    Plan(EXACT, "./confs/demo.conf", 101, 1, False),
    Plan(NOISY, "./confs/demo_trained_cameras.conf", 200, 4, True),
)
"""Both runs by confs with hash grids, and by the publication's networks, made small."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION)
    parser.add_argument(
        "--peek", action="store_true", help="train nothing: mesh and render the checkpoint that ships"
    )
    parser.add_argument(
        "--out", default=None, help="folder for data/, exps/ and evals/; default: the one with code/"
    )
    parser.add_argument(
        "--published", action="store_true", help="train the publication's networks, made small: demo.conf"
    )
    parser.add_argument(
        "--nepoch", type=int, help="passes over the images with exact cameras; default: 113, published 101"
    )
    parser.add_argument(
        "--nepoch_cameras",
        type=int,
        help="passes over the images from noisy cameras; default: 120, published 200",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        help="grid samples along the mesh's shortest side; default: 160, with --peek 96",
    )
    parser.add_argument("--seed", type=int, default=0, help="root of all random numbers")
    add_device_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _peek(arguments) if arguments.peek else _demo(arguments))


def _demo(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.gpu, arguments.device)
    root = _root(arguments)
    plans = _plans(arguments, device)
    scene = _make_scene(root)
    scores = {}
    for plan in plans:
        status = _train(plan, root, arguments)
        if status:
            return status
        scores[plan.title] = _measure(plan, root, scene, device, arguments.resolution or RESOLUTION)
    table = score_table(scores, _ceiling(root))
    overview = (
        root / "evals" / ("demo_published_overview.html" if arguments.published else "demo_overview.html")
    )
    write_demo_overview(overview, table, scores, scene)

    say(f"\n{table.as_text()}\n\nto look at:")
    for title, score in scores.items():
        mesh = next(score.folder.glob("surface_world_coordinates_*.ply"), None)
        say(f"  {title}: {mesh or 'no surface'}\n  {title}: renderings in {score.folder / 'rendering'}")
    say(f"  overview page: {overview}")
    return 0


def _plans(arguments: argparse.Namespace, device: torch.device) -> list[Plan]:
    """Returns what to train, of the lengths that the command line gives.

    Raises:
        InputError: A CPU would have to train hash grids without compiled loops, many times as long.
    """
    from idr.model.twins import find_kernel

    if not arguments.published and device.type == "cpu" and find_kernel("hashgrid_numba") is None:
        raise InputError(
            "the hash grids of fast.conf want compiled loops on a CPU: pip install 'idr[fast]' (numba); or "
            "train the publication's networks with --published"
        )
    lengths = (arguments.nepoch, arguments.nepoch_cameras)
    plans = zip(PUBLISHED if arguments.published else FAST, lengths, strict=True)
    return [plan if length is None else replace(plan, num_epochs=length) for plan, length in plans]


def _peek(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.gpu, arguments.device)

    from idr.conf.build import scan_id_of
    from idr.conf.files import project_root
    from idr.evaluation.reconstruction import join_scene
    from idr.runs.opened import load_model, locate_run

    root = _root(arguments)
    scene = _make_scene(root)
    conf = _conf("./confs/demo.conf", root)
    model = load_model(conf, locate_run(project_root() / PEEK_RUN / "demo_1", "latest"), "latest", device)
    opened = join_scene(model, conf, scan_id_of(conf), str(root / "data"))
    folder = root / "evals" / "peek"
    score = _score(opened, folder, scene, arguments.resolution or PEEK_RESOLUTION, views=SHOWN_VIEWS)
    scores = {"shipped checkpoint": score}
    table = score_table(scores, None)
    overview = folder / "overview.html"
    write_demo_overview(overview, table, scores, scene)
    say(f"\n{table.as_text()}\n\nto look at:\n  {overview}")
    for path in sorted(folder.glob("*.ply")) + sorted((folder / "rendering").glob("*.png")):
        say(f"  {path}")
    return 0


def _root(arguments: argparse.Namespace) -> Path:
    from idr.conf.files import project_root

    lengths = [length for length in (arguments.nepoch, arguments.nepoch_cameras) if length is not None]
    if min(lengths, default=1) < 1 or (arguments.resolution is not None and arguments.resolution < 16):
        raise InputError(
            "expected --nepoch and --nepoch_cameras of at least 1 and --resolution of at least 16"
        )
    return Path(arguments.out).expanduser().resolve() if arguments.out else project_root()


def _make_scene(root: Path) -> Path:
    """Writes the built-in scene unless it is there; returns its folder."""
    from idr.cli.demo import make_scene
    from idr.demo.folder import SETTINGS_FILE

    folder = root / "data" / "demo" / f"scan{SCAN_ID}"
    if not (folder / SETTINGS_FILE).is_file() and make_scene.main(["--out", str(folder)]):
        raise InputError(f"the built-in scene could not be written to {folder}; see above")
    return folder


def _scene_overrides(root: Path) -> list[str]:
    """Returns the keys that fit a conf to the scene that is there, whatever size it was written in."""
    import json

    from idr.demo.folder import SETTINGS_FILE

    about = json.loads((root / "data" / "demo" / f"scan{SCAN_ID}" / SETTINGS_FILE).read_text())
    height, width = about["img_res"]
    holdout = ",".join(str(index) for index in about["holdout"])
    return [f"dataset.img_res=[{height},{width}]", f"dataset.holdout=[{holdout}]"]


def _conf(conf: str, root: Path) -> Any:
    """Loads a conf for the scene that is there."""
    from idr.conf.files import load_conf

    return load_conf(conf, [*_scene_overrides(root), f"dataset.data_root={root / 'data'}"])


def _train(plan: Plan, root: Path, arguments: argparse.Namespace) -> int:
    """Trains, or continues what was begun; returns the exit status."""
    from idr.cli import train

    argv = [
        "--conf", plan.conf, "--nepoch", str(plan.num_epochs), "--seed", str(arguments.seed), "--is_continue",
        "--batch_size", str(plan.batch_size),
        "--exps_folder", str(root / "exps"), "--data_root", str(root / "data"), "--gpu", arguments.gpu,
    ]  # fmt: skip
    argv += ["--train_cameras"] if plan.train_cameras else []
    for override in _scene_overrides(root):
        argv += ["--set", override]
    argv += ["--device", arguments.device] if arguments.device else []
    say(f"\n== {plan.title}: python training/exp_runner.py {' '.join(argv)}")
    return train.main(argv)


def _measure(plan: Plan, root: Path, scene: Path, device: torch.device, resolution: int) -> Scores:
    """Meshes, renders and measures a trained run."""
    from idr.evaluation.reconstruction import open_reconstruction
    from idr.runs.folders import find_run, run_name

    conf = _conf(plan.conf, root)
    name = run_name(conf["train.expname"], "", SCAN_ID)
    folder = find_run(root / "exps", name)
    say(f"\n== {plan.title}: meshing, rendering and measuring")
    opened = open_reconstruction(conf, folder, "latest", SCAN_ID, None, device)
    return _score(opened, root / "evals" / name, scene, resolution, run=folder)


def _score(
    opened: Reconstruction,
    folder: Path,
    scene: Path,
    resolution: int,
    views: int | None = None,
    run: Path | None = None,
) -> Scores:
    import csv

    import numpy as np

    from idr.demo.cameras import UNIT_TO_WORLD
    from idr.demo.exact_scores import chamfer_to_exact
    from idr.evaluation.reconstruction import measure_cameras, write_renderings, write_surface
    from idr.pictures.plots import PlotConfig

    limits = PlotConfig()
    surface = write_surface(opened, folder, resolution, False, limits.chunk_points)
    chamfer = None
    if surface is None:
        log.warning("no surface: the network has no zero set yet")
    else:
        to_unit = np.linalg.inv(UNIT_TO_WORLD)
        chamfer = chamfer_to_exact(surface.mesh.vertices, surface.mesh.faces, to_unit, scene)
    splits = tuple(
        write_renderings(opened, folder / "rendering", limits.chunk_pixels, held_out, views)
        for held_out in (False, True)
    )
    cameras = None
    if opened.loaded.trained_poses is not None:
        after = measure_cameras(opened)
        cameras = (
            _start_errors(scene.parents[2]),
            (float(after.rotation_degrees.mean()), float(after.translation.mean())),
        )
    minutes = 0.0
    if run is not None:
        with (run / "metrics.csv").open(newline="") as stream:
            minutes = float(list(csv.DictReader(stream))[-1]["minutes"])
    return Scores(
        (splits[0], splits[1]), chamfer, cameras, minutes, None if surface is None else surface.mesh, folder
    )


def _start_errors(root: Path) -> tuple[float, float]:
    """Returns the mean errors of the noisy cameras that training starts from: degrees, world units."""
    from idr.conf.build import build_dataset
    from idr.evaluation.camera_error import mean_camera_errors
    from idr.geometry.cameras import pose_matrix

    dataset = build_dataset(_conf("./confs/demo.conf", root), True)
    start = pose_matrix(dataset.get_pose_init().double()).numpy()
    return mean_camera_errors(start, dataset.get_gt_pose(scaled=False).double().numpy())


def _ceiling(root: Path) -> list[RenderingScores]:
    """Scores the exact surface and colors on training and held-out views."""
    from idr.conf.build import build_dataset
    from idr.demo.exact_scores import ceiling_scores

    conf = _conf("./confs/demo.conf", root)
    return ceiling_scores([build_dataset(conf, False, split=split) for split in ("train", "holdout")])


if __name__ == "__main__":
    raise SystemExit(main())
