r"""Compares trained intrinsics, parametrizations of poses and frozen cameras on the built-in scene.

    python preprocess/make_demo_scene.py     (from code/: data/demo/scan1)
    python benchmarks/cameras.py --out benchmarks/results/cameras

Copies the scene with the focal length of ``cameras.npz`` multiplied by a factor, trains confs/fast.conf on it
with several settings of ``train.cameras`` and one seed, and prints a table of the errors of focal length and
poses against the exact cameras. Writes ``cameras.json``. Each setting is run once, so small differences are
noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import numpy as np  # noqa: E402

from idr.cli import train  # noqa: E402
from idr.cli.shared.common import make_parser, run, say  # noqa: E402
from idr.conf.files import load_conf, project_root  # noqa: E402
from idr.datasets.camera_files import read_cameras  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402
from idr.geometry.cameras import decompose_projection  # noqa: E402

EXACT, ROUGH = "cameras.npz", "cameras_linear_init.npz"
SCHEDULE = (
    "train.num_pixels=512", "train.learning_rate_cam=3.0e-3", "train.cameras.learning_rate_intrinsics=1.0e-3",
    "train.cam_warmup_epochs=4", "train.cam_sched_milestones=[25,33]", "train.cam_sched_factor=0.3",
    "train.sched_milestones=[25,32,37]", "train.checkpoint_freq=100", "train.plot_freq=100",
)  # fmt: skip
"""For 40 epochs, in which each camera makes 36 steps and shared intrinsics 216."""

WAYS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "exact poses frozen, only principal point trained": (True, ("frozen=all", "principal_point=shared")),
    "exact poses frozen, focal trained": (True, ("frozen=all", "focal=shared")),
    "noisy poses, quaternion": (False, ()),
    "noisy poses, se3": (False, ("poses=se3",)),
    "noisy poses, quaternion, first frozen": (False, ("frozen=first",)),
    "noisy poses, quaternion, focal trained": (False, ("focal=shared",)),
    "noisy poses, se3, focal trained": (False, ("poses=se3", "focal=shared")),
}
"""By row of the table: whether the initial poses are exact, and the keys of ``train.cameras``."""


def wrong_scene(source: Path, target: Path, factor: float, exact_poses: bool) -> None:
    """Copies a scene with its focal length multiplied by a factor and noisy or exact initial poses."""
    for kind in ("image", "mask"):
        shutil.copytree(source / kind, target / kind)
    with np.load(source / EXACT) as archive:
        arrays: dict[str, Any] = {name: np.asarray(archive[name]) for name in archive.files}
    wrong = dict(arrays)
    for name in [name for name in arrays if name.startswith("world_mat_") and "inv" not in name]:
        intrinsics, pose = decompose_projection(arrays[name][:3])
        intrinsics[[0, 1], [0, 1]] *= factor
        wrong[name] = np.vstack(((intrinsics @ np.linalg.inv(pose))[:3], [0.0, 0.0, 0.0, 1.0]))
    np.savez(target / EXACT, **wrong)
    if exact_poses:
        np.savez(target / ROUGH, **arrays)
    else:
        shutil.copy(source / ROUGH, target / ROUGH)


def train_one(
    arguments: argparse.Namespace, name: str, scene_root: Path, keys: tuple[str, ...]
) -> dict[str, Any]:
    """Trains with one setting and returns the last row of ``metrics.csv``."""
    from idr.training.progress import MetricsFile

    settings = [*SCHEDULE, *(f"train.cameras.{key}" for key in keys)]
    command = [
        "--conf", str(arguments.conf), "--data_root", str(scene_root),
        "--exps_folder", str(arguments.out / "exps"),
        "--expname", f"_{name}", "--nepoch", str(arguments.nepoch), "--train_cameras", "--device", "cpu",
        "--batch_size", "4",
    ]  # fmt: skip
    for setting in settings + arguments.overrides:
        command += ["--set", setting]
    if train.main(command) != 0:
        raise InputError(f"{name}: training failed; see above")
    (metrics,) = (arguments.out / "exps").glob(f"*_{name}_*/*/metrics.csv")
    return dict(MetricsFile(metrics, first_epoch=sys.maxsize).rows[-1])


def table(rows: dict[str, dict[str, Any]], factor: float) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| trained | focal error | rotation (degrees) | center (world units) | PSNR in training |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        focal = abs(factor * float(row.get("focal_factor") or 1.0) - 1.0)
        lines.append(
            f"| {name} | {100 * focal:.2f} % | {float(row['camera_rotation_degrees']):.3f} "
            f"| {float(row['camera_center']):.3f} | {float(row['psnr']):.2f} |"
        )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(__doc__.split("\n\n")[0], "  python benchmarks/cameras.py --out cameras/")
    parser.add_argument("--conf", type=Path, default=project_root() / "confs" / "fast.conf", help="its conf")
    parser.add_argument(
        "--data_root", type=Path, default=project_root() / "data", help="folder with demo/scan1"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for runs and results")
    parser.add_argument("--factor", type=float, default=1.05, help="factor on the true focal length")
    parser.add_argument("--nepoch", type=int, default=40, help="passes over the images")
    parser.add_argument(
        "--only", nargs="+", type=int, help="numbers of the table's rows, from 0; default: all"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="more keys of the conf")
    return parser


def measure(arguments: argparse.Namespace) -> None:
    """Trains with all settings and prints the table."""
    source = arguments.data_root / "demo" / "scan1"
    load_conf(arguments.conf, arguments.overrides)
    read_cameras(source / EXACT, len(list((source / "image").iterdir())))
    if arguments.out.exists():
        raise InputError(f"--out {arguments.out} is there already; name a new folder")
    roots = {exact: arguments.out / ("exact" if exact else "noisy") for exact in (True, False)}
    for exact, root in roots.items():
        wrong_scene(source, root / "demo" / "scan1", arguments.factor, exact)
    rows = {}
    for number, (name, (exact, keys)) in enumerate(WAYS.items()):
        if arguments.only is None or number in arguments.only:
            rows[name] = train_one(arguments, str(number), roots[exact], keys)
    write_text_atomic(arguments.out / "cameras.json", json.dumps(rows, indent=2) + "\n")
    say(table(rows, arguments.factor))


if __name__ == "__main__":
    parsed = build_parser().parse_args()
    raise SystemExit(run(lambda: measure(parsed)))
