"""Trains the built-in scene with several seeds and each tracer, and compares the results.

    python benchmarks/seeds.py --out results/seeds --seeds 0 1 2 3 4

Trains, meshes and renders each pair of tracer and seed that is missing in ``seeds.json`` of the folder, 4 to
7 minutes each; it can be interrupted and called again. Two processes share the work with ``--strategies``
and a folder each; ``--merge`` then reads the figures of the other one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from shared import machine  # noqa: E402

from idr.cli import train  # noqa: E402
from idr.cli.demo import make_scene  # noqa: E402
from idr.cli.shared.common import make_parser, run, say  # noqa: E402
from idr.conf.files import load_conf  # noqa: E402
from idr.demo.cameras import UNIT_TO_WORLD  # noqa: E402
from idr.demo.exact_scores import chamfer_to_exact  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.evaluation.reconstruction import write_renderings, write_surface  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402
from idr.runs import Run  # noqa: E402
from idr.runs.folders import find_run, run_name  # noqa: E402

CONF = "./confs/demo.conf"
STRATEGIES = ("published", "accelerated")
SCAN_ID = 1
RESOLUTION = 160
MEASURES = {  # key of a row: title, whether more is better
    "psnr": ("PSNR, training views (dB)", True),
    "psnr_held_out": ("PSNR, held-out views (dB)", True),
    "chamfer": ("Chamfer (unit sphere)", False),
}
Row = dict[str, Any]


def reconstruct(out: Path, strategy: str, seed: int, num_epochs: int) -> Row:
    """Trains a run, or continues it, and measures it.

    Args:
        out: Folder of scene, runs and results.
        strategy: The tracer of training and evaluation.
        seed: Root of all random numbers.
        num_epochs: Passes over the images.

    Returns:
        Tracer, seed, and the figures named in ``MEASURES``; Chamfer is NaN without a surface.

    Raises:
        InputError: Scene or run could not be created; the reason is in the log.
    """
    scene = out / "data" / "demo" / f"scan{SCAN_ID}"
    if not (scene / "cameras.npz").is_file() and make_scene.main(["--out", str(scene)]):
        raise InputError(f"the built-in scene could not be written to {scene}; see above")
    suffix = f"_{strategy}_{seed}"
    overrides = [f"model.ray_tracer.strategy={strategy}"]
    status = train.main([
        "--conf", CONF, "--expname", suffix, "--seed", str(seed), "--nepoch", str(num_epochs),
        "--is_continue", "--exps_folder", str(out / "exps"), "--data_root", str(out / "data"),
        "--device", "cpu", "--set", *overrides,
    ])  # fmt: skip
    if status:
        raise InputError(f"training with {strategy}, seed {seed}, ended with exit status {status}; see above")
    conf = load_conf(CONF, [*overrides, f"dataset.data_root={out / 'data'}"])
    name = run_name(conf["train.expname"], suffix, SCAN_ID)
    run = Run(conf, find_run(out / "exps", name), device=torch.device("cpu"), scan_id=SCAN_ID)
    results = out / "evals" / name
    surface = write_surface(run, results, RESOLUTION, False, 100_000)
    chamfer = float("nan")
    if surface is not None:
        to_unit = np.linalg.inv(UNIT_TO_WORLD)
        chamfer = chamfer_to_exact(surface.mesh.vertices, surface.mesh.faces, to_unit, scene).chamfer
    seen, unseen = (
        write_renderings(run, results / "rendering", 10_000, held_out) for held_out in (False, True)
    )
    return {
        "strategy": strategy,
        "seed": seed,
        "epochs": run.epoch,
        "psnr": seen.psnr_mean,
        "psnr_held_out": unseen.psnr_mean,
        "chamfer": chamfer,
    }


def compare(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Compares the tracers over the seeds that both have.

    Args:
        rows: Figures of the runs.

    Returns:
        Measure to the tracers' means, the mean of the paired differences (accelerated - published), its
        standard error, and whether accelerated is worse by at most two standard errors. Empty with fewer
        than two common seeds.
    """
    by_run = {(row["strategy"], row["seed"]): row for row in rows}
    seeds = sorted({seed for _, seed in by_run if all((name, seed) in by_run for name in STRATEGIES)})
    if len(seeds) < 2:
        return {}
    verdicts = {}
    for key, (_, more_is_better) in MEASURES.items():
        published, accelerated = (
            np.array([by_run[name, seed][key] for seed in seeds]) for name in STRATEGIES
        )
        differences = accelerated - published
        mean, error = float(differences.mean()), float(differences.std(ddof=1)) / len(seeds) ** 0.5
        verdicts[key] = {
            "published": float(published.mean()),
            "accelerated": float(accelerated.mean()),
            "difference": mean,
            "standard_error": error,
            "not_worse": bool((mean if more_is_better else -mean) >= -2 * error),
        }
    return verdicts


def report(rows: list[Row]) -> None:
    """Prints all runs and the comparison."""
    say("| tracer | seed | " + " | ".join(title for title, _ in MEASURES.values()) + " |")
    say("|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["strategy"], row["seed"])):
        figures = f"{row['psnr']:.2f} | {row['psnr_held_out']:.2f} | {row['chamfer']:.5f}"
        say(f"| {row['strategy']} | {row['seed']} | {figures} |")
    for key, verdict in compare(rows).items():
        words = "not worse" if verdict["not_worse"] else "WORSE"
        say(
            f"{MEASURES[key][0]}: published {verdict['published']:.5g}, accelerated "
            f"{verdict['accelerated']:.5g}, difference {verdict['difference']:+.3g} with standard error "
            f"{verdict['standard_error']:.2g}: {words}"
        )


def read(file: Path) -> list[Row]:
    """Returns the runs in a figures file; none if there is no such file."""
    return list(json.loads(file.read_text())["runs"]) if file.is_file() else []


def body(arguments: argparse.Namespace) -> None:
    """Trains and measures the missing runs, and prints the comparison."""
    torch.set_num_threads(1)  # networks this narrow are no faster with more
    torch.set_flush_denormal(True)
    out = Path(arguments.out).resolve()
    rows = read(out / "seeds.json")
    for path in arguments.merge:
        rows += read(Path(path) / "seeds.json")
    done = {(row["strategy"], row["seed"]) for row in rows}
    for seed in arguments.seeds:
        for strategy in arguments.strategies:
            if (strategy, seed) not in done:
                rows.append(reconstruct(out, strategy, seed, arguments.nepoch))
                figures = {**machine(), "runs": rows, "comparison": compare(rows)}
                write_text_atomic(out / "seeds.json", json.dumps(figures, indent=2) + "\n")
    report(rows)


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = make_parser(
        "Trains the built-in scene with several seeds and each tracer, and compares the results."
    )
    parser.add_argument("--out", required=True, help="folder for scene, runs, results and seeds.json")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=list(range(5)), help="seeds (default: 0 to 4)"
    )
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="tracers")
    parser.add_argument("--nepoch", type=int, default=101, help="passes over the images")
    parser.add_argument("--merge", nargs="*", default=[], help="other --out folders whose figures to include")
    arguments = parser.parse_args(argv)
    return run(lambda: body(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
