r"""Quality of confs over training time: PSNR, mask IoU and surface distance of every checkpoint.

    python benchmarks/fast.py --confs ./confs/fast.conf=30 ./confs/demo.conf=101 --out results/fast \
        --json results/fast.json
    python benchmarks/fast.py --confs ./confs/fast.conf=30 --set train.learning_rate=4e-3 --last \
        --out results/rate

Each entry of ``--confs`` is a conf, optional ``KEY=VALUE`` overrides after commas, and its number of epochs.
It is trained by ``exp_runner.py`` in a separate process. The wall time of a checkpoint is the modification
time of its last file minus the start of the process; it includes imports, compilation, plots and checkpoints,
but not evaluation, which follows training. CPU time, more meaningful on a shared machine, is measured for the
whole process and distributed evenly over the epochs.

Prints a table per conf with a row per checkpoint: PSNR and mask IoU of held-out and training views; on the
built-in scene (``preprocess/make_demo_scene.py``) the Chamfer distance to the exact surface; with
``--points`` the distances of surface points to the mesh; errors of trained cameras. Then prints how much
sooner the other confs reach the last PSNR of the first. ``--json`` writes the results and plots the curves.
An interrupted benchmark resumes: results with the same arguments are read from the folder of each conf.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from reconstruction_curve import points_inside_masks  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.conf.build import build_dataset, scan_id_of  # noqa: E402
from idr.conf.files import load_conf, project_root  # noqa: E402
from idr.demo.cameras import UNIT_TO_WORLD  # noqa: E402
from idr.demo.exact_scores import ceiling_scores, chamfer_to_exact  # noqa: E402
from idr.demo.scene import SETTINGS_FILE  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.evaluation.point_to_mesh import point_to_mesh_distance  # noqa: E402
from idr.evaluation.reconstruction import (  # noqa: E402
    measure_cameras,
    write_renderings,
    write_surface,
)
from idr.files import write_text_atomic  # noqa: E402
from idr.runs import Run  # noqa: E402
from idr.runs.folders import CHECKPOINTS, CheckpointFolder, find_run, run_name  # noqa: E402

CHUNK_POINTS, CHUNK_PIXELS = 100_000, 20_000
CURVE_FILE = "curve.json"
"""Results of a conf, in the folder of its runs."""
COLUMNS = {
    "minutes": "wall time (min)",
    "processor_minutes": "CPU time (min)",
    "epoch": "epoch",
    "psnr_holdout": "PSNR held-out (dB)",
    "psnr_train": "PSNR training (dB)",
    "iou_holdout": "IoU held-out",
    "iou_train": "IoU training",
    "chamfer": "Chamfer",
    "points_median": "points, median",
    "points_p90": "points, 90 %",
    "smaller_components": "smaller components (area)",
    "rotation_degrees": "rotation error (degrees)",
    "center": "center error",
}
"""Column titles, by the keys in the JSON file."""


@dataclass(frozen=True)
class Entry:
    """A conf to train.

    Attributes:
        conf: The conf file.
        overrides: Overrides of this conf, as ``key=value``.
        epochs: Number of epochs.
    """

    conf: str
    overrides: tuple[str, ...]
    epochs: int

    @property
    def label(self) -> str:
        """Name of the conf and its overrides, without block names."""
        overrides = (text.partition("=") for text in self.overrides)
        short = [f"{key.rpartition('.')[2]}={value}" for key, _, value in overrides]
        return ", ".join([Path(self.conf).stem, *short])


def parse_entry(text: str) -> Entry:
    """Parses ``CONF[,KEY=VALUE...]=EPOCHS``; raises `InputError` for anything else."""
    named, _, epochs = text.rpartition("=")
    conf, *overrides = named.split(",")
    if not conf or not epochs.isdigit() or not all("=" in override for override in overrides):
        raise InputError(
            f"--confs {text}: expected a conf, optional overrides and the number of epochs, such as "
            "./confs/fast.conf=30 or ./confs/demo.conf,model.ray_tracer.strategy=accelerated=101"
        )
    return Entry(conf, tuple(overrides), int(epochs))


def train(entry: Entry, arguments: argparse.Namespace, exps: Path) -> dict[str, float]:
    """Trains a conf in a separate process.

    Returns:
        Unix time of its start, wall and CPU time in seconds, and the largest resident memory of all child
        processes so far in GiB.

    Raises:
        InputError: The process failed.
    """
    script = project_root() / "code" / "training" / "exp_runner.py"
    command = [
        sys.executable,
        str(script),
        "--conf",
        entry.conf,
        "--nepoch",
        str(entry.epochs),
        "--exps_folder",
        str(exps),
    ]
    command += ["--scan_id", str(arguments.scan_id), "--batch_size", str(arguments.batch_size)]
    command += ["--seed", str(arguments.seed), "--threads", str(arguments.threads)]
    command += ["--train_cameras"] if arguments.train_cameras else []
    command += ["--data_root", arguments.data_root] if arguments.data_root else []
    for override in (*arguments.overrides, *entry.overrides):
        command += ["--set", override]
    exps.mkdir(parents=True, exist_ok=True)
    began, cpu_before = time.time(), cpu_seconds()
    with (exps / "training.log").open("w") as log:
        status = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=project_root() / "code", check=False,
            env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)},
        ).returncode  # fmt: skip
    if status:
        raise InputError(f"{entry.conf}: training failed (exit status {status}); see {exps / 'training.log'}")
    return {
        "began": began,
        "seconds": time.time() - began,
        "processor_seconds": cpu_seconds() - cpu_before,
        "memory_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,  # KiB on Linux
    }


def cpu_seconds() -> float:
    """CPU time of finished child processes, summed over cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def saved_at(checkpoints: CheckpointFolder, name: str) -> float:
    """Unix time at which the last file of a checkpoint was written."""
    files = list(checkpoints.path.glob(f"*/{name}.pth")) + list(checkpoints.path.glob(f"*/{name}.json"))
    return max(file.stat().st_mtime for file in files)


def score(run: Run, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Scores of one checkpoint, as far as they are available."""
    row: dict[str, float] = {}
    surface = write_surface(run, folder, arguments.resolution, False, CHUNK_POINTS)
    if surface is not None:
        row["smaller_components"] = surface.dropped_area
        scene = Path(run.scene.instance_dir)
        if (scene / SETTINGS_FILE).is_file():
            to_unit = np.linalg.inv(UNIT_TO_WORLD)
            distances = chamfer_to_exact(surface.mesh.vertices, surface.mesh.faces, to_unit, scene)
            row["chamfer"] = distances.chamfer
        if arguments.points:
            points = points_inside_masks(Path(arguments.points), run)
            distance = point_to_mesh_distance(points, surface.mesh.vertices, surface.mesh.faces)
            row["points_median"] = float(np.median(distance))
            row["points_p90"] = float(np.percentile(distance, 90))
    for split, held_out in (("holdout", True), ("train", False)):
        if held_out and run.held_out is None:
            continue
        limit = None if held_out else arguments.views
        scores = write_renderings(run, folder / "rendering", CHUNK_PIXELS, held_out, limit)
        row[f"psnr_{split}"], row[f"iou_{split}"] = scores.psnr_mean, scores.iou_mean
    if run.trained_poses is not None:
        errors = measure_cameras(run)
        row["rotation_degrees"] = float(errors.rotation_degrees.mean())
        row["center"] = float(errors.translation.mean())
    return row


def curve(entry: Entry, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Trains a conf, then scores its checkpoints."""
    conf = load_conf(entry.conf, [*arguments.overrides, *entry.overrides])
    if arguments.data_root:
        conf.put("dataset.data_root", arguments.data_root)
    scan_id = scan_id_of(conf, arguments.scan_id)
    trained = train(entry, arguments, out / "exps")
    minutes_per_epoch = trained["processor_seconds"] / 60 / entry.epochs
    folder = find_run(out / "exps", run_name(conf["train.expname"], "", scan_id))
    checkpoints = CheckpointFolder(folder / CHECKPOINTS)
    names = [name for name in checkpoints.names() if name != "0"]
    rows = []
    for name in names[-1:] if arguments.last else names:
        device = torch.device("cpu")
        run = Run(conf, folder, name, device, scan_id=scan_id, data_root=arguments.data_root)
        minutes = (saved_at(checkpoints, name) - trained["began"]) / 60
        epoch = run.epoch
        row = {"minutes": minutes, "processor_minutes": minutes_per_epoch * epoch, "epoch": epoch}
        rows.append({**row, **score(run, out, arguments)})
        say("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
    return {**trained, "epochs": entry.epochs, "rows": rows}


def cached_curve(entry: Entry, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Reads the curve of an earlier call with the same arguments, or computes it."""
    file = out / CURVE_FILE
    shared = {
        name: value for name, value in vars(arguments).items() if name not in ("confs", "json", "ceiling")
    }
    settings = {**shared, "conf": entry.conf, "own": list(entry.overrides), "epochs": entry.epochs}
    if file.is_file():
        cached = json.loads(file.read_text())
        if cached["asked"] == settings:
            say(f"measured before: {file}")
            return cached["curve"]
    result = curve(entry, arguments, out)
    write_text_atomic(file, json.dumps({"asked": settings, "curve": result}, indent=2) + "\n")
    return result


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores every conf."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    out = Path(arguments.out).resolve()
    entries = [parse_entry(text) for text in arguments.confs]
    curves = {}
    for number, entry in enumerate(entries):
        say(f"== {entry.label}, {entry.epochs} epochs")
        curves[entry.label] = cached_curve(entry, arguments, out / f"{number}_{Path(entry.conf).stem}")
    result = {**machine(), "overrides": arguments.overrides, "curves": curves}
    if arguments.ceiling:
        conf = load_conf(entries[0].conf, [*arguments.overrides, *entries[0].overrides])
        if arguments.data_root:
            conf.put("dataset.data_root", arguments.data_root)
        (ceiling,) = ceiling_scores([build_dataset(conf, False, split="holdout")])
        result["ceiling_psnr_holdout"] = ceiling.psnr_mean
    return result


def first_with_psnr(rows: list[dict[str, float]], psnr: float) -> dict[str, float] | None:
    """The first checkpoint with this held-out PSNR or more; None without one."""
    return next((row for row in rows if row["psnr_holdout"] >= psnr), None)


def compare_times(curves: dict[str, Any]) -> None:
    """Prints the times at which the other curves reach the last held-out PSNR of the first."""
    first, *others = curves
    if not others or any("psnr_holdout" not in row for curve in curves.values() for row in curve["rows"]):
        return
    last = curves[first]["rows"][-1]
    say(
        f"\nfirst checkpoint with {last['psnr_holdout']:.2f} dB held-out, the last PSNR of {first}; wall "
        "time in minutes (CPU time):"
    )
    say(f"  {first}: {last['minutes']:.2f} ({last['processor_minutes']:.2f})")
    for name in others:
        row = first_with_psnr(curves[name]["rows"], last["psnr_holdout"])
        if row is None:
            say(f"  {name}: not reached")
            continue
        wall, cpu = (last[key] / row[key] for key in ("minutes", "processor_minutes"))
        say(
            f"  {name}: {row['minutes']:.2f} ({row['processor_minutes']:.2f}), {wall:.1f} times sooner "
            f"({cpu:.1f})"
        )


def report(result: dict[str, Any]) -> None:
    """Prints a table per conf, and a comparison."""
    for conf, curve in result["curves"].items():
        rows = curve["rows"]
        columns = [key for key in COLUMNS if any(key in row for row in rows)]
        say(
            f"\n{conf}: wall time {curve['seconds'] / 60:.2f} min, CPU time "
            f"{curve['processor_seconds'] / 60:.2f} min, peak memory {curve['memory_gib']:.2f} GiB"
        )
        say("| " + " | ".join(COLUMNS[key] for key in columns) + " |")
        say("|" + " ---: |" * len(columns))
        for row in rows:
            say("| " + " | ".join(f"{row[key]:.4g}" if key in row else "" for key in columns) + " |")
    compare_times(result["curves"])
    if "ceiling_psnr_holdout" in result:
        say(f"\nexact surface and colors: {result['ceiling_psnr_holdout']:.2f} dB held-out")


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Measures the quality of confs over training time.")
    parser.add_argument("--confs", nargs="+", required=True, metavar="CONF[,KEY=VALUE...]=EPOCHS",
                        help="confs to train, each with its overrides")  # fmt: skip
    parser.add_argument("--scan_id", type=int, default=-1, help="scene; -1 takes the conf's")
    parser.add_argument("--data_root", default=None, help="folder of data sets; default: data/")
    parser.add_argument("--batch_size", type=int, default=1, help="images per step")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of training and evaluation")
    parser.add_argument("--train_cameras", action="store_true", help="train cameras too")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="override for all confs")  # fmt: skip
    parser.add_argument("--last", action="store_true", help="measure only the last checkpoint")
    parser.add_argument("--resolution", type=int, default=160, help="grid samples along the shortest side")
    parser.add_argument("--views", type=int, default=None, help="render the first so many training views")
    parser.add_argument("--points", default=None, help="npz with points_world (N, 3) on the surface")
    parser.add_argument(
        "--ceiling", action="store_true", help="also score the built-in scene's exact surface"
    )
    parser.add_argument("--out", required=True, help="folder for runs, meshes and renderings")
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
