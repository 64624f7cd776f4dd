"""Time and SDF evaluations of a training step by stage, for several tracers side by side.

    python benchmarks/train_step.py --scan_id 65 --set dataset.img_res=[300,400]
    python benchmarks/train_step.py --conf ./confs/fast.conf --strategies compiled --threads 2

Trains copies of a model, one per tracer strategy, from the same weights on the same rays, taking turns of a
few steps. Starts at the initial weights or at a run's latest checkpoint, with its weights, Adam moments,
learning rate, alpha (the final one of a ``train.schedule``) and the tracer's grid. Prints the medians over
the turns of seconds and evaluations a ray by stage, grid tracking included. ``--json`` writes them to a file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch  # noqa: E402
from shared import count_evaluations, machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import add_conf_arguments, make_parser, say  # noqa: E402
from idr.conf.build import build_dataset, build_loss, build_model, scan_id_of  # noqa: E402
from idr.conf.files import load_conf, read_block  # noqa: E402
from idr.model.tracing.accelerated.minimum import MinimumSearch  # noqa: E402
from idr.model.tracing.accelerated.network_search import NetworkSearch  # noqa: E402
from idr.runs import Run  # noqa: E402
from idr.runs.folders import CHECKPOINTS, LATEST, CheckpointFolder  # noqa: E402
from idr.training.config import TrainConfig  # noqa: E402
from idr.training.optimizers import load_optimizer, make_optimizer  # noqa: E402
from idr.training.rays.batches import RayBatches  # noqa: E402
from idr.training.schedule.by_epoch import alpha_at  # noqa: E402

PUBLISHED_STAGES = {
    "_trace_from_both_ends": "sphere tracing",
    "_sample": "sampler",
    "_regula_falsi": "refinement",
    "_minimum": "minimum search",
}
SEARCH_STAGES = {
    (NetworkSearch, "approach"): "approach",
    (NetworkSearch, "search"): "search",
    (NetworkSearch, "_corrected"): "search",
    (MinimumSearch, "of_misses"): "minimum search",
    (MinimumSearch, "behind_hits"): "minimum search",
}
TRACING = {
    "published": (*PUBLISHED_STAGES.values(), "rest of tracing"),
    "accelerated": ("grid tracking", "approach", "search", "minimum search", "rest of tracing"),
    "compiled": ("tracing",),
}
OTHERS = ("drawing rays", "values and gradients", "colors", "backward", "optimizer")
STEPS_IN_TURN = {"published": 1, "accelerated": 12, "compiled": 12}
"""A turn of the accelerated tracer is long enough to contain grid builds."""


class Meter:
    """Measures time and evaluations of the innermost running stage.

    Attributes:
        seconds: By stage, since they were last cleared.
        evaluations: SDF evaluations by stage, likewise.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.evaluations: dict[str, int] = defaultdict(int)
        self._stack: list[str] = []
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function: its time, without that of stages inside it, counts for a stage."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._stack.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._stack.pop()

        return wrapped

    def watch(self, model: Any) -> None:
        """Instruments a model's tracer and SDF network."""
        tracer = model.ray_tracer
        published = getattr(tracer, "_published", tracer)
        for method, stage in PUBLISHED_STAGES.items():
            setattr(published, method, self.timed(stage, getattr(published, method)))
        if tracer is not published:
            tracer._tracker.follow = self.timed("grid tracking", tracer._tracker.follow)
        rest = "tracing" if model.tracer_config.strategy == "compiled" else "rest of tracing"
        tracer.trace = self.timed(rest, tracer.trace)

        model.rendering_network.forward = self.timed("colors", model.rendering_network.forward)
        count_evaluations(model.implicit_network, self._count)

    def _count(self, num_points: int) -> None:
        self.evaluations[self._stack[-1] if self._stack else "none"] += num_points


class Contender:
    """A model in training with one tracer.

    Args:
        strategy: The tracer's.
        arguments: The command line's.
    """

    def __init__(self, strategy: str, arguments: argparse.Namespace) -> None:
        conf = load_conf(arguments.conf, [*arguments.overrides, f"model.ray_tracer.strategy={strategy}"])
        torch.manual_seed(0)
        self.strategy, self.loss, self.meter = strategy, build_loss(conf), Meter()
        config = read_block(TrainConfig, conf["train"], "train", unknown="warn")
        if arguments.run:
            folder, where = Path(arguments.run), f"the latest checkpoint of {arguments.run}"
            run = Run(conf, folder, LATEST, torch.device("cpu"))
            self.model = run.model.requires_grad_(True).train()
            self.optimizer = make_optimizer(self.model, config)
            checkpoints = CheckpointFolder(folder / CHECKPOINTS)
            saved = checkpoints.load("OptimizerParameters", LATEST)
            load_optimizer(self.optimizer, saved, where, "OptimizerParameters", "optimizer_state_dict")
            if strategy == "accelerated" and checkpoints.has("TracerState", LATEST):
                self.model.load_tracer_state(checkpoints.load("TracerState", LATEST), where)
            by_step = config.schedule.alpha
            self.loss.alpha = by_step.final if by_step else alpha_at(run.epoch, self.loss.alpha, config)
        else:
            self.model = build_model(conf).requires_grad_(True).train()
            self.optimizer = make_optimizer(self.model, config)
        if arguments.learning_rate:
            for group in self.optimizer.param_groups:
                group["lr"] = arguments.learning_rate
        self.meter.watch(self.model)
        self.forward = self.meter.timed("values and gradients", self.model)
        self.turns: list[dict[str, float]] = []
        self.counts: list[dict[str, float]] = []

    def step(self, batch: Any) -> None:
        """Does one training step."""
        losses = self.loss(self.forward(batch.model_input), batch.ground_truth)
        self.optimizer.zero_grad()
        self.meter.timed("backward", losses["loss"].backward)()
        self.meter.timed("optimizer", self.optimizer.step)()

    def turn(self, batches: Any) -> None:
        """Takes a turn; records its mean seconds and evaluations a step, by stage."""
        count = STEPS_IN_TURN[self.strategy]
        self.meter.seconds.clear()
        self.meter.evaluations.clear()
        started = time.perf_counter()
        for _ in range(count):
            self.step(self.meter.timed("drawing rays", next)(batches))
        seconds = {"whole step": time.perf_counter() - started, **self.meter.seconds}
        self.turns.append({stage: value / count for stage, value in seconds.items()})
        self.counts.append({stage: value / count for stage, value in self.meter.evaluations.items()})

    def figures(self, num_rays: int) -> dict[str, Any]:
        """Returns medians over the turns."""
        stages = (*TRACING[self.strategy], *OTHERS)
        seconds = {s: statistics.median(t.get(s, 0.0) for t in self.turns) for s in (*stages, "whole step")}
        # Some turns contain a grid build and others do not, hence means.
        evaluations = {s: statistics.mean(c.get(s, 0.0) for c in self.counts) / num_rays for s in stages}
        if self.strategy == "accelerated":
            mean = statistics.mean(t.get("grid tracking", 0.0) for t in self.turns)
            seconds["whole step"] += mean - seconds["grid tracking"]
            seconds["grid tracking"] = mean
        tracing = TRACING[self.strategy]
        return {
            "turns": len(self.turns),
            "steps": len(self.turns) * STEPS_IN_TURN[self.strategy],
            "seconds": seconds,
            "seconds_of_tracing": sum(seconds[stage] for stage in tracing),
            "evaluations_per_ray": evaluations,
            "evaluations_per_ray_of_tracing": sum(evaluations[stage] for stage in tracing),
        }


def instrument_search(contenders: list[Contender]) -> None:
    """Measures the stages of the search objects, which the accelerated tracer creates in each step."""
    meters = [contender.meter for contender in contenders if contender.strategy == "accelerated"]
    for (search, method), stage in SEARCH_STAGES.items():
        original = getattr(search, method)

        def timed(self: Any, *args: Any, _original: Any = original, _stage: str = stage, **more: Any) -> Any:
            return meters[0].timed(_stage, _original)(self, *args, **more)

        setattr(search, method, timed)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Takes the turns; returns the figures by strategy."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    conf = load_conf(arguments.conf, arguments.overrides)
    config = read_block(TrainConfig, conf["train"], "train", unknown="warn")
    dataset = build_dataset(conf, False, scan_id_of(conf, arguments.scan_id), arguments.data_root)
    contenders = [Contender(strategy, arguments) for strategy in arguments.strategies]
    instrument_search(contenders)
    rays = RayBatches(dataset, 1, config)
    batches = [(batch for epoch in range(10**6) for batch in rays.batches(0, epoch, 0)) for _ in contenders]
    for number in range(arguments.warmup + arguments.turns):
        for contender, own in zip(contenders, batches, strict=True):
            contender.turn(own)
            if number < arguments.warmup:
                contender.turns.clear()
                contender.counts.clear()
    return {
        "conf": arguments.conf,
        "rays": config.num_pixels,
        "parameters": sum(p.numel() for p in contenders[0].model.parameters()),
        **machine(),
        "strategies": {c.strategy: c.figures(config.num_pixels) for c in contenders},
    }


def report(result: dict[str, Any]) -> None:
    """Prints the tables; a compiled tracer's evaluations are not counted."""
    say(f"{result['conf']}: {result['parameters']:,} parameters, {result['rays']} rays")
    say(f"{result['threads']} threads, torch {result['torch']}; medians over turns")
    for strategy, figures in result["strategies"].items():
        seconds, evaluations = figures["seconds"], figures["evaluations_per_ray"]
        title = f"{strategy}, {figures['steps']} steps"
        say(f"\n{title:<28}{'seconds':>10}{'share':>9}{'evaluations a ray':>20}")
        for stage in (*TRACING[strategy], *OTHERS):
            share = seconds[stage] / seconds["whole step"]
            counted = f"{evaluations[stage]:>20.2f}" if strategy != "compiled" else ""
            say(f"{stage:<28}{seconds[stage]:>10.4f}{share:>9.1%}{counted}")
        traced = (
            f"{figures['evaluations_per_ray_of_tracing']:>13.2f} traced" if strategy != "compiled" else ""
        )
        say(f"{'whole step':<28}{seconds['whole step']:>10.4f}{'':>9}{traced}")
    if {"published", "accelerated"} <= set(result["strategies"]):
        slow, fast = (result["strategies"][name] for name in ("published", "accelerated"))
        step = slow["seconds"]["whole step"] / fast["seconds"]["whole step"]
        tracing = slow["seconds_of_tracing"] / fast["seconds_of_tracing"]
        say(f"\naccelerated: the step {step:.1f} times faster, its tracing {tracing:.1f} times")


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Measures time and SDF evaluations of a training step by stage.")
    add_conf_arguments(parser)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: torch's")
    parser.add_argument("--scan_id", type=int, default=-1, help="scene; -1: the conf's")
    parser.add_argument(
        "--run", default=None, help="run whose latest checkpoint to start from; default: none"
    )
    parser.add_argument("--strategies", nargs="+", default=["published", "accelerated"], help="tracers")
    parser.add_argument(
        "--learning_rate", type=float, default=None, help="instead of the conf's or the run's"
    )
    parser.add_argument("--turns", type=int, default=5, help="measured turns of each strategy")
    parser.add_argument("--warmup", type=int, default=0, help="turns before these")
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
