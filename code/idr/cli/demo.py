"""``make demo`` and ``make peek``: the whole job on the built-in scene, without any data from elsewhere."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.common import add_device_arguments, choose_device, make_parser, parse, run, say
from idr.errors import InputError

if TYPE_CHECKING:
    import torch
    import trimesh

    from idr.evaluation.chamfer import ChamferResult
    from idr.evaluation.overview import Table
    from idr.evaluation.reconstruction import Reconstruction
    from idr.evaluation.results import RenderingScores

log = logging.getLogger("idr.cli.demo")

DESCRIPTION = (
    "Reconstructs the built-in scene: writes it, trains once with exact cameras and once from noisy ones, "
    "meshes, renders, measures. What is done already is not done again."
)
SCAN_ID = 1
SHOWN_VIEWS = 3
PEEK_RUN = "trained_models"


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


@dataclass(frozen=True)
class Scores:
    """What was measured of one run.

    Attributes:
        views: Scores of the training views and of the held-out ones.
        chamfer: Distances to the exact surface, or None without a surface.
        cameras: Mean rotation (degrees) and centre (world units) errors before and after, or None.
        minutes: Time spent training.
        mesh: The surface in world coordinates, or None.
        folder: Where mesh and renderings are.
    """

    views: tuple[RenderingScores, RenderingScores]
    chamfer: ChamferResult | None
    cameras: tuple[tuple[float, float], tuple[float, float]] | None
    minutes: float
    mesh: trimesh.Trimesh | None
    folder: Path


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION)
    parser.add_argument(
        "--peek", action="store_true", help="train nothing: mesh and render the checkpoint that ships"
    )
    parser.add_argument(
        "--out", default=None, help="folder for data/, exps/ and evals/; default: the one with code/"
    )
    parser.add_argument("--nepoch", type=int, default=101, help="passes over the images with exact cameras")
    parser.add_argument(
        "--nepoch_cameras", type=int, default=200, help="passes over the images from noisy cameras"
    )
    parser.add_argument(
        "--resolution", type=int, default=160, help="grid samples along the mesh's shortest side"
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
    scene = _make_scene(root)
    plans = (
        Plan("exact cameras", "./confs/demo.conf", arguments.nepoch, 1, False),
        Plan(
            "noisy cameras, trained", "./confs/demo_trained_cameras.conf", arguments.nepoch_cameras, 4, True
        ),
    )
    scores = {}
    for plan in plans:
        status = _train(plan, root, arguments)
        if status:
            return status
        scores[plan.title] = _measure(plan, root, scene, device, arguments.resolution)
    table = _table(scores, _ceiling(root))
    overview = root / "evals" / "demo_overview.html"
    _write_overview(overview, table, scores, scene)

    say(f"\n{table.as_text()}\n\nto look at:")
    for title, score in scores.items():
        mesh = next(score.folder.glob("surface_world_coordinates_*.ply"), None)
        say(f"  {title}: {mesh or 'no surface'}\n  {title}: renderings in {score.folder / 'rendering'}")
    say(f"  overview page: {overview}")
    return 0


def _peek(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.gpu, arguments.device)

    from idr.config import project_root
    from idr.evaluation.loading import load_model, locate_run
    from idr.evaluation.reconstruction import join_scene
    from idr.plugins import scan_id_of

    root = _root(arguments)
    scene = _make_scene(root)
    plan = Plan("shipped checkpoint", "./confs/demo.conf", 0, 1, False)
    conf = _conf(plan.conf, root)
    model = load_model(conf, locate_run(project_root() / PEEK_RUN / "demo_1", "latest"), "latest", device)
    opened = join_scene(model, conf, scan_id_of(conf), str(root / "data"))
    folder = root / "evals" / "peek"
    scores = {plan.title: _score(opened, folder, scene, arguments.resolution, views=SHOWN_VIEWS)}
    overview = folder / "overview.html"
    _write_overview(overview, _table(scores, None), scores, scene)
    say(f"\n{_table(scores, None).as_text()}\n\nto look at:\n  {overview}")
    for path in sorted(folder.glob("*.ply")) + sorted((folder / "rendering").glob("*.png")):
        say(f"  {path}")
    return 0


def _root(arguments: argparse.Namespace) -> Path:
    from idr.config import project_root

    if arguments.nepoch < 1 or arguments.nepoch_cameras < 1 or arguments.resolution < 16:
        raise InputError(
            "expected --nepoch and --nepoch_cameras of at least 1 and --resolution of at least 16"
        )
    return Path(arguments.out).expanduser().resolve() if arguments.out else project_root()


def _make_scene(root: Path) -> Path:
    """Writes the built-in scene unless it is there; returns its folder."""
    from idr.cli import make_scene
    from idr.datasets.synthetic_folder import SETTINGS_FILE

    folder = root / "data" / "demo" / f"scan{SCAN_ID}"
    if not (folder / SETTINGS_FILE).is_file() and make_scene.main(["--out", str(folder)]):
        raise InputError(f"the built-in scene could not be written to {folder}; see above")
    return folder


def _scene_overrides(root: Path) -> list[str]:
    """Returns the keys that fit a conf to the scene that is there, whatever size it was written in."""
    import json

    from idr.datasets.synthetic_folder import SETTINGS_FILE

    about = json.loads((root / "data" / "demo" / f"scan{SCAN_ID}" / SETTINGS_FILE).read_text())
    height, width = about["img_res"]
    holdout = ",".join(str(index) for index in about["holdout"])
    return [f"dataset.img_res=[{height},{width}]", f"dataset.holdout=[{holdout}]"]


def _conf(conf: str, root: Path) -> Any:
    """Loads a conf for the scene that is there."""
    from idr.config import load_conf

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
    from idr.workspace import find_run, run_name

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

    from idr.datasets.synthetic_cameras import UNIT_TO_WORLD
    from idr.evaluation.exact_scores import chamfer_to_exact
    from idr.evaluation.reconstruction import measure_cameras, write_renderings, write_surface
    from idr.plots import PlotConfig

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
    from idr.evaluation.camera_error import align_cameras, camera_errors
    from idr.geometry.cameras import pose_matrix
    from idr.plugins import build_dataset

    dataset = build_dataset(_conf("./confs/demo.conf", root), True)
    truth = dataset.get_gt_pose(scaled=False).double().numpy()
    start = pose_matrix(dataset.get_pose_init().double()).numpy()
    errors = camera_errors(start, truth, align_cameras(start, truth))
    return float(errors.rotation_degrees.mean()), float(errors.translation.mean())


def _ceiling(root: Path) -> list[RenderingScores]:
    """Scores the exact surface and colours on training and held-out views."""
    from idr.evaluation.exact_scores import ceiling_scores
    from idr.plugins import build_dataset

    conf = _conf("./confs/demo.conf", root)
    return ceiling_scores([build_dataset(conf, False, split=split) for split in ("train", "holdout")])


def _table(scores: dict[str, Scores], ceiling: Sequence[RenderingScores] | None) -> Table:
    """Puts the runs beside each other and beside what exact surface and colours reach."""
    from idr.evaluation.overview import Table

    none = "-"
    best = [f"{split.psnr_mean:.2f}" for split in ceiling] if ceiling else [none, none]
    best_iou = [f"{split.iou_mean:.4f}" for split in ceiling] if ceiling else [none, none]

    def line(label: str, cells: Sequence[str], limit: str = none) -> list[str]:
        return [label, *cells, limit]

    def cameras(score: Scores, which: int, form: str) -> str:
        if score.cameras is None:
            return none
        before, after = score.cameras
        return f"{before[which]:{form}} -> {after[which]:{form}}"

    def distance(score: Scores, name: str) -> str:
        return none if score.chamfer is None else f"{getattr(score.chamfer, name):.5f}"

    all_scores = list(scores.values())
    rows = [
        line("PSNR, training views (dB)", [f"{s.views[0].psnr_mean:.2f}" for s in all_scores], best[0]),
        line("PSNR, held-out views (dB)", [f"{s.views[1].psnr_mean:.2f}" for s in all_scores], best[1]),
        line("mask IoU, training views", [f"{s.views[0].iou_mean:.4f}" for s in all_scores], best_iou[0]),
        line("mask IoU, held-out views", [f"{s.views[1].iou_mean:.4f}" for s in all_scores], best_iou[1]),
        line("Chamfer (unit sphere)", [distance(s, "chamfer") for s in all_scores], "0"),
        line("  accuracy", [distance(s, "accuracy") for s in all_scores], "0"),
        line("  completeness", [distance(s, "completeness") for s in all_scores], "0"),
        line("camera rotations (degrees)", [cameras(s, 0, ".2f") for s in all_scores]),
        line("camera centres (world units)", [cameras(s, 1, ".2f") for s in all_scores]),
        line("training (minutes)", [f"{s.minutes:.1f}" if s.minutes else none for s in all_scores]),
    ]
    return Table(["", *scores, "exact surface, colour"], rows)


def _write_overview(path: Path, table: Table, scores: dict[str, Scores], scene: Path) -> None:
    """Writes the page with table, photographs beside renderings, and surfaces."""
    from idr.evaluation.overview import Picture, write_overview

    first = next(iter(scores.values()))
    numbers = [v.number for split in first.views for v in split.views[:SHOWN_VIEWS]]
    held_out = {v.number for v in first.views[1].views}
    rows = []
    for number in numbers:
        kind = "held-out view" if number in held_out else "view"
        row = [Picture(scene / "image" / f"{number:03d}.png", f"photograph, {kind} {number}")]
        for title, score in scores.items():
            stem = "heldout" if number in held_out else "eval"
            row.append(Picture(score.folder / "rendering" / f"{stem}_{number:03d}.png", title))
        rows.append(row)
    surfaces = {title: score.mesh for title, score in scores.items() if score.mesh is not None}
    write_overview(path, "IDR on the built-in scene", table, rows, surfaces)


if __name__ == "__main__":
    raise SystemExit(main())
