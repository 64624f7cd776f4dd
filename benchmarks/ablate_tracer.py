"""What each refinement of the accelerated tracer is worth: the tracer without it, one at a time.

    python benchmarks/ablate_tracer.py --data_root data --out results/ablation
    python benchmarks/ablate_tracer.py --data_root data --out results/ablation --variants "no slope step"

Traces the rays of recorded training steps of the built-in scene and renders a view of the network in
``trained_models/demo_1``, with each variant in turn. Counts evaluations of f and measures processor time on
one thread (the least of several turns; on a shared machine it varies by 10 % and more, the counts do not).
Then runs the tests that compare the tracer with the published one and with exact intersections, and names
those that fail. Prints a markdown table; the folder ``--out`` keeps the figures, so that tests can be
interrupted and continued.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

import torch  # noqa: E402
from shared import count_evaluations, machine  # noqa: E402
from torch import Tensor  # noqa: E402

from idr.cli.demo import make_scene  # noqa: E402
from idr.cli.shared.common import make_parser, run, say  # noqa: E402
from idr.conf.build import build_dataset, build_loss, build_model  # noqa: E402
from idr.conf.files import load_conf, read_block  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.fields import sdf_grid  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402
from idr.geometry.cameras import pixel_rays  # noqa: E402
from idr.geometry.spheres import SphereCrossing  # noqa: E402
from idr.model.implicit_differentiable_renderer import draw_step  # noqa: E402
from idr.model.tracing.accelerated import (  # noqa: E402
    false_position,
    grid_tracking,
    local_minima,
    marching,
    minimum,
    network_search,
    slope_step,
    tracer,
)
from idr.model.tracing.accelerated.samples import smallest_sample  # noqa: E402
from idr.model.tracing.published import PublishedTracer  # noqa: E402
from idr.rendering import render_image  # noqa: E402
from idr.training.config import TrainConfig  # noqa: E402
from idr.training.rays.batches import Feed  # noqa: E402

CONF = "./confs/demo.conf"
OVERRIDES = ("model.ray_tracer.strategy=accelerated",)
TRAINED = ROOT / "trained_models" / "demo_1"
IMG_RES = (128, 160)
MANY_RAYS = tracer.REFINE_AFTER + 1
STEPS = 40
"""Recorded steps of each phase of a training."""
PHASES = {"early": (1.5e-3, 512), "late": (2e-4, 512)}
"""Learning rate and rays a step: from the initial weights, otherwise from the trained ones."""
TESTS = (
    "test_contract.py",
    "test_counts.py",
    "test_grazing.py",
    "accelerated/test_grid_tracking.py",
    "accelerated/test_tracer.py",
    "accelerated/test_minimum.py",
)
WHOLE = "whole tracer"

Switch = tuple[Any, str, Any]
"""A module or class, an attribute of it, and its value without the refinement."""


# --- variants -----------------------------------------------------------------------------------------------


def _constants(module: Any, name: str, **values: Any) -> Switch:
    return module, name, replace(getattr(module, name), **values)


def _without_slope_step(
    sdf: Any, config: Any, grid: Any, drift_bound: float, slope_steps: bool = False
) -> Any:
    return network_search.NetworkSearch(sdf, config, grid, drift_bound)


def _of_new_grids_unmoved(self: Any, found: Any, grid_minimum: Any, missed: Any, new_grid: bool) -> Tensor:
    return found.depth if new_grid else _of_misses(self, found, grid_minimum, missed, new_grid)


_of_misses = minimum.MinimumSearch.of_misses


def _behind_by_grid(self: Any, depth: Tensor, hit_outside: Tensor) -> Tensor:
    beyond = self.samples.depths >= depth.unsqueeze(1)
    values = torch.where(beyond, self.samples.values, torch.inf)
    middle, value = smallest_sample(self.samples.depths, values)
    moved = torch.where(torch.isfinite(value), torch.maximum(middle, depth), depth)
    return torch.where(hit_outside, moved, depth)


def _no_correction(points: Tensor, residual: Tensor, half_side: float, total: Any) -> tuple[Tensor, Tensor]:
    return points.new_zeros(2, 2, 2), _fit_lattice(points, residual, half_side, total)[1]


_fit_lattice = grid_tracking.fit_lattice


def _whole_chords(grid: Any, rays: Any, crossing: SphereCrossing) -> tuple[Tensor, Tensor, SphereCrossing]:
    depth, value, _ = _coarse_pass(grid, rays, crossing)
    return depth, value, SphereCrossing(crossing.near, crossing.far, crossing.far > crossing.near)


_coarse_pass = tracer.coarse_pass


def _uncorrected(self: Any, rays: Any, samples: Any, *rest: Any) -> Any:
    return samples


def _unshifted(depths: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    value, index = values.min(dim=1, keepdim=True)
    return depths.gather(1, index).squeeze(1), value.squeeze(1)


def _no_drop(values: Tensor) -> Tensor:
    return torch.zeros_like(values)


VARIANTS: dict[str, list[Switch]] = {
    WHOLE: [],
    # evaluation
    "slope step": [(tracer, "NetworkSearch", _without_slope_step)],
    "secants after a slope step": [_constants(slope_step, "SLOPE_STEP", max_secants=0)],
    "slope step ends by extrapolation": [_constants(slope_step, "FALSE_POSITION", extrapolation_error=-1.0)],
    "coarse pass": [(tracer, "coarse_pass", _whole_chords)],
    "fewer samples in short windows": [(tracer, "NUM_COARSE_SAMPLES", 1)],
    "refined grid of many views": [(tracer, "REFINE_AFTER", 1 << 60)],
    "compiled loops": [(marching, "find_kernel", lambda name: None)],
    # approach and refinement
    "approach: first step by the grid's slope": [_constants(network_search, "SEARCH", max_overshoot=-1.0)],
    "approach ends by extrapolation": [
        _constants(network_search, "FALSE_POSITION", extrapolation_error=-1.0)
    ],
    "false position ends by extrapolation": [
        _constants(false_position, "FALSE_POSITION", extrapolation_error=-1.0)
    ],
    "smallest assumed curvature": [
        _constants(module, "FALSE_POSITION", min_curvature=0.0) for module in (false_position, network_search)
    ],
    "slope condition of refinement": [
        _constants(false_position, "FALSE_POSITION", slope_error=math.inf, at_zero=1.0)
    ],
    # search
    "both divisions": [_constants(network_search, "SEARCH", division_rounds=0)],
    "second division": [_constants(network_search, "SEARCH", division_rounds=1)],
    "samples in minima": [_constants(network_search, "SEARCH", minimum_rounds=0)],
    "second sample in minima": [_constants(network_search, "SEARCH", minimum_rounds=1)],
    "samples at early zeros": [(local_minima, "EARLY_ZERO", math.inf)],
    "drift correction by one evaluation": [(network_search.NetworkSearch, "_corrected", _uncorrected)],
    # minima for the mask loss
    "minima of misses, new grid": [(minimum.MinimumSearch, "of_misses", _of_new_grids_unmoved)],
    "second minima": [_constants(minimum, "MINIMUM", second_within=0.0)],
    "minima of misses, aged grid": [_constants(grid_tracking, "TRACKING", ripples=math.inf)],
    "minima behind hits by the network": [(minimum.MinimumSearch, "behind_hits", _behind_by_grid)],
    "parabola through grid samples": [
        (module, "smallest_sample", _unshifted) for module in (tracer, minimum)
    ],
    # grid
    "correction lattice": [(grid_tracking, "fit_lattice", _no_correction)],
    "moving by a quadratic": [_constants(grid_tracking, "TRACKING", ridge=1e12)],
    "far probes": [_constants(grid_tracking, "TRACKING", far_probes=0)],
    "margin of splitting": [_constants(grid_tracking, "TRACKING", build_margin=0.0)],
    "a level in the whole ball": [_constants(grid_tracking, "TRACKING", full_levels=0)],
    "second level in training": [_constants(grid_tracking, "TRACKING", rays_served=(0, 1 << 60))],
    "cubic interpolation": [(sdf_grid, "halve_cubic", sdf_grid.halve_linear)],
    "bound of drops between samples": [(marching, "_drop", _no_drop)],
    "safety at kinks": [_constants(sdf_grid, "GRID", kink_safety=1.0)],
}
"""By name, what stands for the refinement that is left out."""


@contextlib.contextmanager
def applied(name: str) -> Iterator[None]:
    """Switches a refinement off."""
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in VARIANTS[name]]
    for owner, attribute, value in VARIANTS[name]:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


# --- times and evaluations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A recorded training step.

    Attributes:
        weights: Parameters of the implicit network.
        rays: Arguments of the model's tracing.
        eikonal_points: (R / 2, 3) in the cube.
    """

    weights: list[Tensor]
    rays: tuple[Any, ...]
    eikonal_points: Tensor


class Workload:
    """Recorded training steps, and a view of the trained network.

    Args:
        data_root: Folder of data sets; the built-in scene is written to it if it is missing.
        replays: Times that the recorded steps are traced, forward and backward by turns: more rays for one
            grid.
    """

    def __init__(self, data_root: Path, replays: int) -> None:
        scene = data_root / "demo" / "scan1"
        if not (scene / "cameras.npz").is_file() and make_scene.main(["--out", str(scene)]):
            raise InputError(f"the built-in scene could not be written to {scene}; see above")
        self.conf = load_conf(CONF, [*OVERRIDES, f"dataset.data_root={data_root}"])
        self.replays = replays
        self.dataset = build_dataset(self.conf, False, 1, str(data_root))
        self.phases = {name: self._record(name, *settings) for name, settings in PHASES.items()}
        self.trained = self._model("late").eval()
        self.points = 0
        count_evaluations(self.trained.implicit_network, self._count)
        for steps_model in (model for model, _ in self.phases.values()):
            count_evaluations(steps_model.implicit_network, self._count)

    def _count(self, num_points: int) -> None:
        self.points += num_points

    def _model(self, phase: str) -> Any:
        torch.manual_seed(0)
        model = build_model(self.conf)
        if phase != "early":
            (file,) = TRAINED.glob("*/checkpoints/ModelParameters/*.pth")
            model.load_state_dict(torch.load(file, weights_only=True)["model_state_dict"])
        return model.requires_grad_(True).train()

    def _record(self, phase: str, rate: float, num_rays: int) -> tuple[Any, list[Step]]:
        """Trains for some steps; returns the model, and the steps as the tracer met them."""
        model, loss = self._model(phase), build_loss(self.conf)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        keys = {**self.conf["train"], "num_pixels": num_rays}
        feed = Feed(self.dataset, 1, read_block(TrainConfig, keys, "train", unknown="warn"))
        batches = (batch for epoch in range(1 << 30) for batch in feed.batches(0, epoch, 0))
        steps = []
        for number in range(STEPS):
            batch = next(batches)
            sample = batch.model_input
            directions, centers = pixel_rays(sample["uv"], sample["pose"], sample["intrinsics"])
            generator = torch.Generator().manual_seed(number)
            draws = draw_step(directions.shape[1], model.tracer_config, directions, generator)
            weights = [parameter.detach().clone() for parameter in model.implicit_network.parameters()]
            rays = (centers, directions, sample["object_mask"].reshape(-1), draws)
            steps.append(Step(weights, rays, draws.eikonal_points))
            losses = loss(model({**sample, "draws": draws}), batch.ground_truth)
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        return model, steps

    @torch.no_grad()
    def train(self, phase: str) -> tuple[float, float]:
        """Traces the recorded steps of a phase; returns processor seconds a step, and evaluations a ray."""
        model, recorded = self.phases[phase]
        steps = [step for turn in range(self.replays) for step in recorded[:: 1 - 2 * (turn % 2)]]
        model.ray_tracer.discard()
        if phase != "early":
            model.ray_tracer._tracker._traced = 1 << 30  # so many rays that ripples count
        seconds, self.points, evaluations = 0.0, 0, 0
        for step in steps:
            for parameter, value in zip(model.implicit_network.parameters(), step.weights, strict=True):
                parameter.copy_(value)
            centers, directions, mask, draws = step.rays
            self.points, started = 0, time.process_time()
            traced = model._trace(centers, directions, mask, draws)
            seconds += time.process_time() - started
            evaluations += self.points
            ends = centers.repeat_interleave(directions.shape[1], dim=0)
            ends = ends + traced.depth.unsqueeze(1) * directions.reshape(-1, 3)
            seen = torch.cat((step.eikonal_points, ends))
            value = model.implicit_network.sdf(seen)
            started = time.process_time()
            model.ray_tracer.observe(seen, value, traced.hit)
            seconds += time.process_time() - started
        return seconds / len(steps), evaluations / (len(steps) * mask.numel())

    def view(self) -> tuple[float, float]:
        """Renders a view with the grid of many views; returns processor seconds, and evaluations a pixel."""
        _, sample, _ = self.dataset[0]
        self.trained.ray_tracer.discard()

        def render() -> Any:
            return render_image(self.trained, sample["intrinsics"], sample["pose"], IMG_RES)

        render()
        self.trained.ray_tracer._fixed_served = MANY_RAYS
        render()
        self.points, started = 0, time.process_time()
        image = render()
        return time.process_time() - started, self.points / image.hit.numel()

    def measure(self) -> dict[str, tuple[float, float]]:
        """Measures all; returns seconds and evaluations by what was done."""
        return {**{phase: self.train(phase) for phase in PHASES}, "view": self.view()}


# --- contracts ----------------------------------------------------------------------------------------------


class Recomputed:
    """A cached function of the tests; only the published tracer's results are kept from variant to variant.

    Args:
        function: The function, without its cache.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        self.published, self.present = functools.cache(function), functools.cache(function)

    def __call__(self, name: str, strategy: str, *rest: Any) -> Any:
        """Returns the function's result."""
        return (self.published if strategy == "published" else self.present)(name, strategy, *rest)


def cache_published_results() -> list[Recomputed]:
    """Has the tests compute once what does not depend on the variant; returns what does."""
    from tests.model.tracing import test_contract, test_grazing
    from tests.model.tracing.accelerated import test_tracer

    contract, shapes, grazing = cast(tuple[Any, Any, Any], (test_contract, test_tracer, test_grazing))
    recomputed = [Recomputed(function.__wrapped__) for function in (contract.traced, contract.rendered)]
    contract.traced, contract.rendered = recomputed
    names = {id(scene): name for name, scene in shapes.SCENES.items()}
    trace, slopes_at_zero = shapes.trace, grazing.slopes_at_zero
    published = functools.cache(lambda name, training: trace(PublishedTracer, shapes.SCENES[name], training))

    def traced(tracer_class: Any, scene: Any, *rest: Any, **more: Any) -> Any:
        if tracer_class is PublishedTracer and id(scene) in names:
            return published(names[id(scene)], *rest, **more)
        return trace(tracer_class, scene, *rest, **more)

    shapes.trace = traced
    slopes: list[Any] = []

    def slopes_once(*inputs: Any) -> Any:
        if not slopes:  # of the one network and its rays
            slopes.append(slopes_at_zero(*inputs))
        return slopes[0]

    grazing.slopes_at_zero = slopes_once
    return recomputed


def failing_tests(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs the tests of variants in this process; yields each variant with the tests that it fails."""
    import pytest

    sys.path.insert(0, str(ROOT))
    recomputed = cache_published_results()
    folder = ROOT / "tests" / "model" / "tracing"
    for name in names:
        failed: list[str] = []
        for function in recomputed:
            function.present.cache_clear()

        class Failures:
            """Collects the tests that fail."""

            def pytest_runtest_logreport(self, report: Any, failed: list[str] = failed) -> None:
                """Notes a failure."""
                if report.failed:
                    failed.append(report.nodeid.rpartition("/")[2])

        with applied(name):
            pytest.main(
                [
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    f"--rootdir={ROOT}",
                    *(str(folder / file) for file in TESTS),
                ],
                plugins=[Failures()],
            )
        yield name, failed


# --- the command --------------------------------------------------------------------------------------------


def summarized(names: list[str]) -> str:
    """Returns failing tests by function, with the number of cases."""
    functions: dict[str, int] = {}
    for name in names:
        function = name.partition("::")[2].partition("[")[0]
        functions[function] = functions.get(function, 0) + 1
    return ", ".join(f"{function} ({count})" for function, count in functions.items()) or "none"


def table(figures: dict[str, Any]) -> str:
    """Returns the figures as a markdown table."""
    parts = (*PHASES, "view")

    def best(name: str, part: str) -> tuple[float, float]:
        turns = [turn[part] for turn in figures["times"][name]]
        return min(seconds for seconds, _ in turns), turns[0][1]

    heads = [f"{part}: evaluations, time" for part in parts]
    lines = ["| without | " + " | ".join(heads) + " | tests that fail |", "|---" * (len(parts) + 2) + "|"]
    for name in figures["times"]:
        cells = []
        for part in parts:
            (seconds, count), (whole_seconds, whole_count) = best(name, part), best(WHOLE, part)
            change = f"{count:.2f}" if name == WHOLE else f"{count / whole_count - 1:+.0%}"
            cells.append(f"{change}, {seconds / whole_seconds - 1:+.0%}")
        failing = figures["contracts"].get(name)
        cells.append("not run" if failing is None else summarized(failing))
        lines.append(f"| {name if name != WHOLE else 'nothing'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def body(arguments: argparse.Namespace) -> None:
    """Measures what is missing; prints the table."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out = Path(arguments.out).resolve()
    file = out / "ablation.json"
    figures: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"contracts": {}}
    names = [WHOLE, *(name for name in arguments.variants if name != WHOLE)]

    def keep() -> None:
        write_text_atomic(file, json.dumps({**machine(), **figures}, indent=2) + "\n")

    if "times" in arguments.parts:
        workload = Workload(Path(arguments.data_root).resolve(), arguments.replays)
        figures["times"] = {name: [] for name in names}
        for _ in range(arguments.turns):
            for name in names:
                with applied(name):
                    figures["times"][name].append(workload.measure())
        keep()
    untested = [name for name in names if name not in figures["contracts"]]
    for name, failed in failing_tests(untested if "tests" in arguments.parts else []):
        figures["contracts"][name] = failed
        keep()
    if "times" in figures:
        say(table(figures))
        write_text_atomic(out / "ablation.md", table(figures))


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = make_parser("Measures what each refinement of the accelerated tracer is worth.")
    parser.add_argument("--out", default="results/ablation", help="folder for figures and table")
    parser.add_argument("--data_root", default="data", help="folder of data sets, for the built-in scene")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to leave out"
    )
    parser.add_argument("--replays", type=int, default=1, help="times that the recorded steps are traced")
    parser.add_argument("--turns", type=int, default=5, help="turns of the time measurements")
    parser.add_argument(
        "--parts", nargs="+", choices=("times", "tests"), default=("times", "tests"), help="what to run"
    )
    arguments = parser.parse_args(argv)
    return run(lambda: body(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
