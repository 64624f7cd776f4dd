"""Wall time and evaluations of dense and sparse meshing.

    python benchmarks/mesh.py --resolution 256 512
    python benchmarks/mesh.py --run ../exps/demo_1 --resolution 128 256

Dense meshing evaluates the whole grid, sparse meshing only the cells near the surface. Both first find the
surface's frame from a coarse mesh. They alternate on one network: the conf's at initial weights, or that of a
trained run. Evaluations are counted exactly. Dense meshing that would exceed ``--whole_under`` seconds is
estimated from a random 1 % of its chunks, scaled by the exact count (network evaluations only); such values
are marked ``~``. Prints a row per resolution with medians over the repetitions; ``--json`` writes all
numbers.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import add_conf_arguments, make_parser, say  # noqa: E402
from idr.conf.build import build_model  # noqa: E402
from idr.conf.files import load_conf  # noqa: E402
from idr.meshing import SampleGrid, component_areas, extract_mesh, surface_frame  # noqa: E402
from idr.runs import Run  # noqa: E402
from idr.runs.folders import conf_of_run, locate_run  # noqa: E402

SHARE_TIMED = 0.01
"""Share of the chunks of dense meshing that is timed if all would take too long."""

GIB = 2**20  # `ru_maxrss` counts kibibytes


class CountedField:
    """A network's SDF that counts and times its evaluations.

    Attributes:
        evaluations: Points evaluated since `reset`.
        seconds: Time spent on them.
    """

    def __init__(self, sdf: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._sdf = sdf
        self.reset()

    def reset(self) -> None:
        """Resets the counters."""
        self.evaluations = 0
        self.seconds = 0.0

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Evaluates (N, 3) points: (N,)."""
        started = time.perf_counter()
        values = self._sdf(points)
        self.seconds += time.perf_counter() - started
        self.evaluations += len(points)
        return values


def open_network(arguments: argparse.Namespace) -> tuple[CountedField, float, str]:
    """Builds or loads the network.

    Returns:
        Its SDF, the radius of the bounding sphere, and a description.
    """
    if arguments.run:
        folder = locate_run(arguments.run, "latest")
        conf = conf_of_run(folder, arguments.conf, arguments.overrides)
        run = Run(conf, folder, device=torch.device("cpu"))
        sdf, weights = run.field, f"weights of {folder.parent.name}, epoch {run.epoch}"
    else:
        overrides = list(arguments.overrides)
        if arguments.dims:
            layers = f"[{','.join(map(str, arguments.dims))}]"
            overrides += [
                f"model.implicit_network.dims={layers}",
                f"model.implicit_network.skip_in=[{len(arguments.dims) // 2}]",
            ]
        conf = load_conf(arguments.conf, overrides)
        torch.manual_seed(arguments.seed)
        sdf, weights = build_model(conf).eval().requires_grad_(False).implicit_network.sdf, "initial weights"
    dims = [int(width) for width in conf["model.implicit_network.dims"]]
    radius = float(conf.get("model.ray_tracer.object_bounding_sphere", 1.0))
    return CountedField(sdf), radius, f"{len(dims)} x {max(dims)}, {weights}"


def mesh_whole(
    field: CountedField, radius: float, resolution: int, chunk_points: int, dense: bool
) -> tuple[dict[str, Any], Any]:
    """Finds the frame and meshes in it; returns the measurements and the mesh."""
    field.reset()
    started = time.perf_counter()
    grid = surface_frame(field, radius, resolution, chunk_points, dense=dense)
    assert grid is not None, "the network has no surface"
    frame_evaluations = field.evaluations
    mesh = extract_mesh(field, grid, chunk_points, dense=dense)
    measured = {
        "seconds": time.perf_counter() - started,
        "network_seconds": field.seconds,
        "evaluations": field.evaluations,
        "frame_evaluations": frame_evaluations,
        "samples": grid.num_samples,
        "shape": list(grid.shape),
    }
    return measured, mesh


def time_share(
    field: CountedField, grid: SampleGrid, frame_samples: int, chunk_points: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Times the network on a random share of the dense chunks, and scales by the count."""
    starts = np.arange(0, grid.num_samples, chunk_points)
    chosen = rng.choice(starts, max(1, round(SHARE_TIMED * len(starts))), replace=False)
    field.reset()
    with torch.no_grad():
        for start in chosen.tolist():
            field(grid.points_at(torch.arange(start, min(start + chunk_points, grid.num_samples))))
    evaluations = grid.num_samples + frame_samples
    seconds = field.seconds * evaluations / field.evaluations
    return {"seconds": seconds, "evaluations": evaluations, "timed_share": field.evaluations / evaluations}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Alternates between both methods, and returns the measurements."""
    from idr.meshing.frame import COARSE_RESOLUTION

    field, radius, network = open_network(arguments)
    frame_samples = COARSE_RESOLUTION**3
    rng = np.random.default_rng(arguments.seed)
    rows = []
    for resolution in arguments.resolution:
        grid = surface_frame(field, radius, resolution, arguments.chunk_points)
        assert grid is not None, "the network has no surface"
        estimate = time_share(field, grid, frame_samples, arguments.chunk_points, rng)  # also warms up
        whole = estimate["seconds"] <= arguments.whole_under
        dense, sparse, meshes = [], [], {}
        for _ in range(arguments.repetitions):
            measured, meshes["sparse"] = mesh_whole(field, radius, resolution, arguments.chunk_points, False)
            sparse.append(measured)
            if whole:
                measured, meshes["dense"] = mesh_whole(
                    field, radius, resolution, arguments.chunk_points, True
                )
                dense.append(measured)
            else:
                dense.append(time_share(field, grid, frame_samples, arguments.chunk_points, rng))
        rows.append(summary(resolution, whole, dense, sparse, meshes))
    return {
        "network": network,
        **machine(),
        "repetitions": arguments.repetitions,
        "chunk_points": arguments.chunk_points,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB,
        "rows": rows,
    }


def summary(
    resolution: int, whole: bool, dense: list[dict[str, Any]], sparse: list[dict[str, Any]], meshes: Any
) -> dict[str, Any]:
    """Medians of one resolution, and the distance of the meshes if both are complete."""
    seconds = {
        name: statistics.median(run["seconds"] for run in runs)
        for name, runs in (("dense", dense), ("sparse", sparse))
    }
    row = {
        "resolution": resolution,
        "shape": sparse[0]["shape"],
        "dense_timed_whole": whole,
        "dense_seconds": seconds["dense"],
        "sparse_seconds": seconds["sparse"],
        "sparse_network_seconds": statistics.median(run["network_seconds"] for run in sparse),
        "times_faster": seconds["dense"] / seconds["sparse"],
        "dense_evaluations": dense[0]["evaluations"],
        "sparse_evaluations": sparse[0]["evaluations"],
        "share_of_grid": (sparse[0]["evaluations"] - sparse[0]["frame_evaluations"]) / sparse[0]["samples"],
        "dense_runs": dense,
        "sparse_runs": sparse,
        "faces": len(meshes["sparse"].faces),
    }
    if whole:
        from scipy.spatial import cKDTree

        one, other = meshes["sparse"], meshes["dense"]
        row["vertex_distance"] = max(
            float(cKDTree(a.vertices).query(b.vertices)[0].max()) for a, b in ((one, other), (other, one))
        )
        row["same_components"] = len(component_areas(one)) == len(component_areas(other))
        row["same_faces"] = len(one.faces) == len(other.faces)
        row["watertight"] = [bool(other.is_watertight), bool(one.is_watertight)]
    return row


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    say(
        f"{result['network']}; {result['threads']} threads, median of {result['repetitions']}; frame and "
        f"mesh; peak {result['peak_gib']:.1f} GiB"
    )
    say(f"{'resolution':>10}{'dense s':>12}{'sparse s':>10}{'network s':>11}{'faster':>9}"
        f"{'dense evaluations':>19}{'sparse':>12}{'of the grid':>13}{'vertices within':>17}")  # fmt: skip
    for row in result["rows"]:
        mark = "" if row["dense_timed_whole"] else "~"
        apart = f"{row['vertex_distance']:.1e}" if row["dense_timed_whole"] else ""
        say(f"{row['resolution']:>10}{mark + format(row['dense_seconds'], '.1f'):>12}"
            f"{row['sparse_seconds']:>10.1f}{row['sparse_network_seconds']:>11.1f}"
            f"{mark + format(row['times_faster'], '.1f') + 'x':>9}{row['dense_evaluations']:>19,}"
            f"{row['sparse_evaluations']:>12,}{row['share_of_grid']:>13.2%}{apart:>17}")  # fmt: skip
    if not all(row["dense_timed_whole"] for row in result["rows"]):
        say(f"~ from a random {SHARE_TIMED:.0%} of the chunks, network only, scaled by the exact count")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected at least 1")
    return value


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Compares dense and sparse meshing.")
    add_conf_arguments(parser)
    parser.add_argument(
        "--run", default=None, help="run folder, for its latest weights; default: initial weights"
    )
    parser.add_argument("--dims", type=_positive, nargs="+", help="hidden layers instead of the conf's")
    parser.add_argument("--resolution", type=_positive, nargs="+", default=[128, 256])
    parser.add_argument("--repetitions", type=_positive, default=3)
    parser.add_argument("--chunk_points", type=_positive, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of initial weights and timed chunks")
    parser.add_argument(
        "--whole_under", type=float, default=60.0, help="seconds up to which dense meshing is run completely"
    )
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
