"""``make demo`` and ``make peek``: a complete reconstruction of the built-in scene."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.demo.report import SHOWN_VIEWS, Scores, score_table, write_demo_overview
from idr.cli.shared.commands import command_line
from idr.cli.shared.common import choose_device, make_parser, run_command, say
from idr.cli.shared.flags import add_flags, add_switches, check_at_least
from idr.errors import InputError
from idr.places import BESIDE_CODE, shipped_root
from idr.replacing import check_writable

if TYPE_CHECKING:
    import torch

    from idr.evaluation.results import RenderingScores
    from idr.runs import Run

log = logging.getLogger("idr.cli.demo.command")

DESCRIPTION = (
    "Reconstructs the built-in scene: writes it, trains with exact cameras and from noisy ones, extracts "
    "meshes, renders and evaluates. Skips what is already done."
)
SCAN_ID = 1
PEEK_RUN = "trained_models"
RESOLUTION = 160
PEEK_RESOLUTION = 96  # coarse enough for one minute


@dataclass(frozen=True)
class Plan:
    """One training run of the demo; `title` is its column of the table."""

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
"""Both runs with hash grids (`FAST`), and with small networks of the published form (`PUBLISHED`)."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, command="demo")
    add_switches(
        parser,
        peek="evaluate the checkpoint in trained_models/ without training",
        published="train small networks of the published form: demo.conf",
    )
    parser.add_argument("--out", help=f"folder of data/, exps/ and evals/; default: these {BESIDE_CODE}")
    numbers = {
        "--nepoch": "passes over the images with exact cameras; default: 113, with --published 101",
        "--nepoch_cameras": "passes over the images from noisy cameras; default: 120, with --published 200",
        "--resolution": "grid samples along the mesh's shortest side; default: 160, with --peek 96",
    }
    for name, text in numbers.items():
        parser.add_argument(name, type=int, help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    add_flags(parser, "gpu", "device")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, lambda given: _peek(given) if given.peek else _demo(given))


def _demo(arguments: argparse.Namespace) -> int:
    from idr.conf.files import find_conf

    device = choose_device(arguments.gpu, arguments.device)
    root = _root(arguments)
    plans = _plans(arguments, device)
    kind = "demo_published" if arguments.published else "demo"
    overview = root / "evals" / f"{kind}_overview.html"
    check_writable(overview)
    for plan in plans:
        find_conf(plan.conf)
    scene = _make_scene(root)
    scores = {}
    for plan in plans:
        status = _train(plan, root, arguments)
        if status:
            return status
        scores[plan.title] = _measure(plan, root, scene, device, arguments.resolution or RESOLUTION)
    table = score_table(scores, _ceiling(root))
    write_demo_overview(overview, table, scores, scene)

    say(f"\n{table.as_text()}\n\nto look at:")
    for title, score in scores.items():
        mesh = max(score.folder.glob("mesh_*.glb"), key=lambda path: path.stat().st_mtime, default=None)
        say(f"  {title}: {mesh or 'no surface'}\n  {title}: renderings in {score.folder / 'rendering'}")
    say(f"  overview page: {overview}")
    return 0


def _plans(arguments: argparse.Namespace, device: torch.device) -> list[Plan]:
    """Returns the training runs, with the numbers of epochs of the command line.

    Raises:
        InputError: Hash grids on a CPU without the compiled kernels, which would take many times as long.
    """
    from idr.model.twins import find_kernel

    if not arguments.published and device.type == "cpu" and find_kernel("hashgrid_numba") is None:
        raise InputError(
            "the hash grids of fast.conf need compiled kernels on a CPU: pip install 'idr-surface[fast]', or "
            "train networks of the published form with --published"
        )
    lengths = (arguments.nepoch, arguments.nepoch_cameras)
    plans = zip(PUBLISHED if arguments.published else FAST, lengths, strict=True)
    return [plan if length is None else replace(plan, num_epochs=length) for plan, length in plans]


def _peek(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.gpu, arguments.device)

    from idr.conf.build import scan_id_of
    from idr.runs import Run
    from idr.runs.folders import locate_run

    root = _root(arguments)
    scene = _make_scene(root)
    conf = _conf("./confs/demo.conf", root)
    shipped = locate_run(shipped_root() / PEEK_RUN / "demo_1", "latest")
    opened = Run(conf, shipped, device=device, scan_id=scan_id_of(conf), data_root=str(root / "data"))
    folder = root / "evals" / "peek"
    score = _score(opened, folder, scene, arguments.resolution or PEEK_RESOLUTION, views=SHOWN_VIEWS)
    scores = {"shipped checkpoint": score}
    table = score_table(scores, None)
    overview = folder / "overview.html"
    write_demo_overview(overview, table, scores, scene)
    say(f"\n{table.as_text()}\n\nto look at:\n  {overview}")
    for pattern in ("*.glb", "*.ply", "rendering/*.png"):
        for path in sorted(folder.glob(pattern)):
            say(f"  {path}")
    return 0


def _root(arguments: argparse.Namespace) -> Path:
    from idr.conf.files import project_root

    check_at_least(arguments, nepoch=1, nepoch_cameras=1, resolution=16)
    return Path(arguments.out).expanduser().resolve() if arguments.out else project_root()


def _make_scene(root: Path) -> Path:
    """Writes the built-in scene unless it exists; returns its folder."""
    from idr.cli.demo import make_scene
    from idr.demo.scene import SETTINGS_FILE

    folder = root / "data" / "demo" / f"scan{SCAN_ID}"
    if not (folder / SETTINGS_FILE).is_file() and make_scene.main(["--out", str(folder)]):
        raise InputError(f"the built-in scene could not be written to {folder}; see above")
    return folder


def _scene_overrides(root: Path) -> list[str]:
    """Returns the overrides that adapt a conf to the size and the held-out views of the existing scene."""
    from idr.demo.scene import SETTINGS_FILE

    settings = json.loads((root / "data" / "demo" / f"scan{SCAN_ID}" / SETTINGS_FILE).read_text())
    return [f"dataset.{key}=[{','.join(map(str, settings[key]))}]" for key in ("img_res", "holdout")]


def _conf(conf: str, root: Path) -> Any:
    from idr.conf.files import load_conf

    content = load_conf(conf, _scene_overrides(root))
    content.put("dataset.data_root", str(root / "data"))
    return content


def _train(plan: Plan, root: Path, arguments: argparse.Namespace) -> int:
    """Trains, or continues an unfinished run; returns the exit status."""
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
    say(f"\n== {plan.title}: {command_line('train', *argv)}")
    return train.main(argv)


def _measure(plan: Plan, root: Path, scene: Path, device: torch.device, resolution: int) -> Scores:
    from idr.runs import Run
    from idr.runs.folders import find_run, run_name
    from idr.training.progress import MetricsFile

    conf = _conf(plan.conf, root)
    name = run_name(conf["train.expname"], "", SCAN_ID)
    folder = find_run(root / "exps", name)
    say(f"\n== {plan.title}: meshing, rendering and measuring")
    opened = Run(conf, folder, device=device, scan_id=SCAN_ID)
    minutes = MetricsFile(folder / "metrics.csv", first_epoch=sys.maxsize).minutes_so_far
    return _score(opened, root / "evals" / name, scene, resolution, minutes=minutes)


def _score(
    opened: Run, folder: Path, scene: Path, resolution: int, views: int | None = None, minutes: float = 0.0
) -> Scores:
    """Meshes, renders and measures a run; writes a colored GLB. `views` limits the renderings of a split."""
    import numpy as np

    from idr.demo.cameras import UNIT_TO_WORLD
    from idr.demo.exact_scores import chamfer_to_exact
    from idr.evaluation.reconstruction import measure_cameras, write_renderings, write_surface
    from idr.evaluation.report.surface import color_world_mesh, upright_world
    from idr.export.mesh_files import write_surface as write_surface_file
    from idr.pictures.plots import PlotConfig

    limits = PlotConfig()
    surface = write_surface(opened, folder, resolution, False, limits.chunk_points)
    colored = chamfer = None
    rotation = upright_world(opened)
    if surface is None:
        log.warning("no surface: the network has no zero set yet")
    else:
        mesh = surface.mesh
        chamfer = chamfer_to_exact(mesh.vertices, mesh.faces, np.linalg.inv(UNIT_TO_WORLD), scene)
        colored = color_world_mesh(opened, mesh)
        write_surface_file(colored, folder / f"mesh_{opened.epoch}.glb", upright=rotation)
    shown, held_out = (
        write_renderings(opened, folder / "rendering", limits.chunk_pixels, held_out, views)
        for held_out in (False, True)
    )
    cameras = None
    if opened.trained_poses is not None:
        after = measure_cameras(opened)
        errors = float(after.rotation_degrees.mean()), float(after.translation.mean())
        cameras = _start_errors(scene.parents[2]), errors
    return Scores((shown, held_out), chamfer, cameras, minutes, colored, rotation, folder)


def _start_errors(root: Path) -> tuple[float, float]:
    """Returns the mean errors of the initial, noisy cameras: degrees, world units."""
    from idr.conf.build import build_dataset
    from idr.evaluation.camera_error import mean_camera_errors
    from idr.geometry.cameras import pose_matrix

    dataset = build_dataset(_conf("./confs/demo.conf", root), True)
    start = pose_matrix(dataset.get_pose_init().double()).numpy()
    return mean_camera_errors(start, dataset.get_gt_pose(scaled=False).double().numpy())


def _ceiling(root: Path) -> list[RenderingScores]:
    """Returns the scores of the exact surface and colors on training and held-out views."""
    from idr.conf.build import build_dataset
    from idr.demo.exact_scores import ceiling_scores

    conf = _conf("./confs/demo.conf", root)
    return ceiling_scores([build_dataset(conf, False, split=split) for split in ("train", "holdout")])


if __name__ == "__main__":
    raise SystemExit(main())
