"""Scaling of wall time: training steps by rays, meshing by resolution, training by processes.

    python benchmarks/scaling.py --json results/scaling.json
    python benchmarks/scaling.py --parts rays --rays 512 1024 2048 4096 8192 16384

Each part alternates between two methods and prints medians over the repetitions: ``rays``, training steps
with the published and the accelerated tracer from initial weights; ``resolution``, dense and sparse meshing
of one network (see `mesh.py`); ``processes``, training of the built-in scene in one or several ``torchrun``
processes with one thread each. Evaluations of f without gradient are counted exactly. A published step that
would exceed ``--whole_under`` seconds is measured on fewer rays (at least 1 %) and scaled by the number of
rays; such values are marked ``~``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "code"), str(ROOT / "benchmarks")]

import mesh  # noqa: E402
import torch  # noqa: E402
from shared import count_evaluations, machine, run_benchmark  # noqa: E402
from steps import TrainingSteps  # noqa: E402

from idr.cli.shared.common import add_conf_arguments, make_parser, say  # noqa: E402
from idr.errors import InputError  # noqa: E402

STRATEGIES = ("published", "accelerated")
STEPS_IN_TURN = {"published": 1, "accelerated": 6}
PARTS = ("rays", "resolution", "processes")
MAX_REDUCTION = 100
CPU = torch.device("cpu")
SCENE = ("--views", "6", "--holdout", "0", "--img_res", "64", "80")


def by_rays(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures training steps by number of rays."""
    rows = []
    per_ray = math.inf  # seconds of a published step
    for num_rays in arguments.rays:
        share = num_rays
        if math.isfinite(per_ray) and per_ray * num_rays > arguments.whole_under:
            share = max(num_rays // MAX_REDUCTION, int(arguments.whole_under / per_ray))
        rays = {"published": share, "accelerated": num_rays}
        steps = {
            name: TrainingSteps(name, arguments.conf, arguments.overrides, rays[name], CPU)
            for name in STRATEGIES
        }
        steps["accelerated"].step()  # builds the first grid, which is not timed
        seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
        counts: dict[str, list[float]] = {name: [] for name in STRATEGIES}
        for _ in range(arguments.repetitions):
            for name, contender in steps.items():
                contender.evaluations, count = 0, STEPS_IN_TURN[name]
                scale = num_rays / rays[name] / count
                seconds[name].append(scale * sum(contender.timed(count)))
                counts[name].append(scale * contender.evaluations)
        row: dict[str, Any] = {"rays": num_rays, "published_timed_whole": share == num_rays}
        row["published_timed_share"] = share / num_rays
        for name in STRATEGIES:
            row[f"{name}_seconds"] = statistics.median(seconds[name])
            row[f"{name}_evaluations_per_ray"] = statistics.mean(counts[name]) / num_rays
        per_ray = row["published_seconds"] / num_rays
        row["times_faster"] = row["published_seconds"] / row["accelerated_seconds"]
        rows.append(row)
    return rows


def by_processes(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures training of the built-in scene by number of processes."""
    runs: dict[tuple[int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        from idr.cli.demo import make_scene

        if make_scene.main(["--out", f"{folder}/demo/scan1", *SCENE]) != 0:
            raise InputError("the built-in scene could not be written; see above")
        for repetition in range(arguments.repetitions):
            for strategy in STRATEGIES:
                for count in arguments.processes:
                    out = Path(folder) / f"{repetition}_{strategy}_{count}"
                    result = train_in_processes(arguments, Path(folder), out, strategy, count)
                    runs.setdefault((count, strategy), []).append(result)
    rows = []
    for count in arguments.processes:
        row: dict[str, Any] = {"processes": count}
        for strategy in STRATEGIES:
            results = runs[count, strategy]
            row[f"{strategy}_seconds"] = statistics.median(r["seconds"] for r in results)
            row[f"{strategy}_evaluations_per_step"] = statistics.median(r["evaluations"] for r in results)
        rows.append(row)
    return rows


def train_in_processes(
    arguments: argparse.Namespace, data: Path, out: Path, strategy: str, count: int
) -> dict[str, float]:
    """Trains in torchrun processes; returns seconds and total evaluations per step."""
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    train = ["--conf", "./confs/demo.conf", "--scan_id", "1", "--nepoch", str(arguments.epochs)]
    train += ["--device", "cpu", "--data_root", str(data), "--exps_folder", str(out)]
    settings = [f"model.ray_tracer.strategy={strategy}", "train.plot_freq=100000", "dataset.img_res=[64,80]"]
    settings += ["dataset.holdout=[]"]
    settings += [f"train.num_pixels={arguments.process_rays}", *arguments.process_overrides]
    train += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [*command, __file__, "--train", str(out), *train],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "code")},
    )
    if done.returncode != 0:
        raise InputError(f"training in {count} processes failed: {(done.stdout + done.stderr)[-2000:]}")
    ranks = [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))]
    assert len(ranks) == count, f"{count} processes wrote {len(ranks)} files"
    return {"seconds": ranks[0]["seconds"], "evaluations": sum(rank["evaluations"] for rank in ranks)}


def train_here(out: str, argv: list[str]) -> int:
    """Trains as one of the processes; writes median seconds and mean evaluations per step."""
    from idr.cli import train
    from idr.training.trainer import Trainer

    times: list[float] = []
    counts: list[int] = []
    counted = [0]
    step = Trainer._train_step

    def count(num_points: int) -> None:
        counted[0] += num_points * (not torch.is_grad_enabled())

    def timing(trainer: Any, batch: Any) -> Any:
        if not times:
            count_evaluations(trainer.state.model.implicit_network, count)
        started, counted[0] = time.perf_counter(), 0
        result = step(trainer, batch)
        times.append(time.perf_counter() - started)
        counts.append(counted[0])
        return result

    Trainer._train_step = timing  # type: ignore[method-assign, assignment]
    train.draw_plots = lambda *_, **__: None  # type: ignore[attr-defined]
    status = train.main(argv)
    warmup = len(times) // 3  # connections and the first grid
    result = {"seconds": statistics.median(times[warmup:]), "evaluations": statistics.mean(counts[warmup:])}
    Path(out, f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))
    return status


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the requested parts."""
    result: dict[str, Any] = {"conf": arguments.conf, **machine(), "load_before": os.getloadavg()[0]}
    result["repetitions"], result["scaling"] = arguments.repetitions, {}
    if "rays" in arguments.parts:
        result["scaling"]["rays"] = by_rays(arguments)
    if "resolution" in arguments.parts:
        meshing = {"run": None, "dims": None, "seed": 0, "chunk_points": 100_000}
        result["scaling"]["resolution"] = mesh.measure(argparse.Namespace(**{**vars(arguments), **meshing}))[
            "rows"
        ]
    if "processes" in arguments.parts:
        result["scaling"]["processes"] = by_processes(arguments)
        result["process_rays"] = arguments.process_rays
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the tables."""
    say(f"{result['conf']}; {result['threads']} threads, torch {result['torch']}; medians over repetitions")
    parts = result["scaling"]
    if "rays" in parts:
        say(f"\n{'rays':>10}{'published s':>14}{'accelerated s':>15}{'faster':>9}{'evaluations per ray':>26}")
    for row in parts.get("rays", ()):
        mark = "" if row["published_timed_whole"] else "~"
        say(f"{row['rays']:>10}{mark + format(row['published_seconds'], '.2f'):>14}"
            f"{row['accelerated_seconds']:>15.2f}{mark + format(row['times_faster'], '.1f') + 'x':>9}"
            f"{mark + format(row['published_evaluations_per_ray'], '.1f'):>16}"
            f"{row['accelerated_evaluations_per_ray']:>10.2f}")  # fmt: skip
    if "resolution" in parts:
        say(f"\n{'resolution':>10}{'dense s':>14}{'sparse s':>15}{'faster':>9}{'evaluations':>26}")
    for row in parts.get("resolution", ()):
        mark = "" if row["dense_timed_whole"] else "~"
        say(f"{row['resolution']:>10}{mark + format(row['dense_seconds'], '.1f'):>14}"
            f"{row['sparse_seconds']:>15.1f}{mark + format(row['times_faster'], '.1f') + 'x':>9}"
            f"{row['dense_evaluations']:>14,}{row['sparse_evaluations']:>12,}")  # fmt: skip
    if "processes" in parts:
        say(f"\n{'processes':>10}{'published s':>14}{'accelerated s':>15}{'':>9}{'evaluations per step':>26}")
    for row in parts.get("processes", ()):
        say(f"{row['processes']:>10}{row['published_seconds']:>14.3f}{row['accelerated_seconds']:>15.3f}{'':>9}"
            f"{row['published_evaluations_per_step']:>14,.0f}"
            f"{row['accelerated_evaluations_per_step']:>12,.0f}")  # fmt: skip
    say("~ scaled from fewer rays or a share of the grid")


def main() -> int:
    """Runs the benchmark."""
    if sys.argv[1:2] == ["--train"]:
        return train_here(sys.argv[2], sys.argv[3:])
    parser = make_parser("Measures how wall time scales with rays, resolution and processes.")
    add_conf_arguments(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rays", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--resolution", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--whole_under",
        type=float,
        default=30.0,
        help="seconds up to which baselines are measured completely",
    )
    parser.add_argument("--epochs", type=int, default=4, help="epochs of 6 images, with processes")
    parser.add_argument("--process_rays", type=int, default=2048, help="rays per step, with processes")
    parser.add_argument(
        "--process_set",
        dest="process_overrides",
        action="append",
        default=[],
        help="override (key=value), with processes",
    )
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
