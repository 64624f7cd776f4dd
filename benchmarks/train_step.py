"""Where a training step's time and SDF evaluations go.

    python benchmarks/train_step.py --scan_id 65 --set dataset.img_res=[300,400]

Runs a few steps of a conf on a scene, at the initial weights or at those of a run, and prints seconds and
evaluations a ray by stage: medians over the steps. With ``--json`` the same goes to a file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import torch  # noqa: E402

from idr.cli.common import add_conf_arguments, make_parser, run, say  # noqa: E402
from idr.config import load_conf, read_block  # noqa: E402
from idr.evaluation.loading import load_model  # noqa: E402
from idr.plugins import build_dataset, build_loss, build_model, scan_id_of  # noqa: E402
from idr.training.config import TrainConfig  # noqa: E402
from idr.training.feed import Feed  # noqa: E402

TRACER_STAGES = {
    "_trace_from_both_ends": "sphere tracing",
    "_sample": "sampler",
    "_regula_falsi": "refinement",
    "_smallest": "smallest-f search",
}
STAGES = (*TRACER_STAGES.values(), "values and gradients", "backward", "optimiser")


class Meter:
    """Times and counts the innermost stage that is running.

    Attributes:
        seconds: By stage, of the present step.
        evaluations: SDF evaluations by stage, of the present step.
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
        """Returns a function whose own time, less that of stages inside it, is charged to a stage."""

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
        """Instruments a model's tracer and its SDF network."""
        for method, stage in TRACER_STAGES.items():
            setattr(model.ray_tracer, method, self.timed(stage, getattr(model.ray_tracer, method)))

        def count(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            self.evaluations[self._stack[-1] if self._stack else "none"] += inputs[0].shape[0]

        model.implicit_network.register_forward_pre_hook(count)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the steps and returns medians by stage."""
    conf = load_conf(arguments.conf, arguments.overrides)
    scan_id = scan_id_of(conf, arguments.scan_id)
    config = read_block(TrainConfig, conf["train"], "train", unknown="warn")
    dataset = build_dataset(conf, False, scan_id, arguments.data_root)
    loss = build_loss(conf)
    torch.manual_seed(0)
    if arguments.run:
        model = load_model(conf, Path(arguments.run), "latest", torch.device("cpu")).model.requires_grad_(
            True
        )
    else:
        model = build_model(conf)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    meter = Meter()
    meter.watch(model)
    forward = meter.timed("values and gradients", model)

    def step(batch: Any) -> None:
        losses = loss(forward(batch.model_input), batch.ground_truth)
        optimizer.zero_grad()
        meter.timed("backward", losses["loss"].backward)()
        meter.timed("optimiser", optimizer.step)()

    seconds: dict[str, list[float]] = defaultdict(list)
    evaluations: dict[str, list[float]] = defaultdict(list)
    totals = []
    feed = Feed(dataset, 1, config)
    batches = (batch for epoch in range(10**6) for batch in feed.batches(0, epoch, 0))
    for number, batch in zip(range(arguments.warmup + arguments.steps), batches, strict=False):
        meter.seconds.clear()
        meter.evaluations.clear()
        started = time.perf_counter()
        step(batch)
        if number >= arguments.warmup:
            totals.append(time.perf_counter() - started)
            for stage in STAGES:
                seconds[stage].append(meter.seconds[stage])
                evaluations[stage].append(meter.evaluations[stage] / config.num_pixels)
    return {
        "conf": arguments.conf,
        "rays": config.num_pixels,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "seconds_per_step": statistics.median(totals),
        "seconds": {stage: statistics.median(seconds[stage]) for stage in STAGES},
        "evaluations_per_ray": {stage: statistics.median(evaluations[stage]) for stage in STAGES},
    }


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    say(
        f"{result['conf']}: {result['parameters']:,} parameters, {result['rays']} rays, "
        f"{result['threads']} threads, median of {result['steps']} steps"
    )
    say(f"{'stage':<22}{'seconds':>10}{'share':>9}{'evaluations a ray':>20}")
    for stage in STAGES:
        seconds, evaluations = result["seconds"][stage], result["evaluations_per_ray"][stage]
        share = seconds / result["seconds_per_step"]
        say(f"{stage:<22}{seconds:>10.3f}{share:>9.1%}{evaluations:>20.2f}")
    tracing = sum(result["evaluations_per_ray"][stage] for stage in TRACER_STAGES.values())
    say(f"{'whole step':<22}{result['seconds_per_step']:>10.3f}{'':>9}{tracing:>14.2f} traced")


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Measures where a training step's time and SDF evaluations go.")
    add_conf_arguments(parser)
    parser.add_argument("--scan_id", type=int, default=-1, help="scene; -1 takes the conf's")
    parser.add_argument(
        "--run", default=None, help="run folder whose latest weights are used; default: initial weights"
    )
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--json", default=None, help="file for the figures")
    arguments = parser.parse_args()

    def body() -> None:
        result = measure(arguments)
        report(result)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")

    return run(body)


if __name__ == "__main__":
    raise SystemExit(main())
