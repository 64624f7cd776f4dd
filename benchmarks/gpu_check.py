"""Checks a GPU: parity with the published code, synchronizations per training step, step time.

    make gpu-check
    python benchmarks/gpu_check.py --device cuda --json gpu_check.json

Parity: outputs, losses and gradients on the device are compared with arrays of the published code, with the
tolerances of the CPU. Gradients that exceed them only by amplified rounding, as float64 shows, are listed
separately. Reads: synchronizing operators per training step; on CUDA also counted by PyTorch's sync debug
mode. Timing: median step of the DTU conf with each tracer; on CUDA also with ``train.capture`` (``strategy =
fixed``), run operator by operator and repeated as a CUDA graph, and the difference of their losses. Kernels:
where Triton's kernels run, they are compared with plain torch in float64, and timed against plain torch in
float32, on ``fast.conf``.

Prints all four. The exit status is 1 if parity, the number of reads, that difference or a kernel fails.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "code"), str(ROOT)]

import torch  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402
from steps import TrainingSteps  # noqa: E402
from tests.parity import comparisons, golden  # noqa: E402
from tests.reads import ReadCounter  # noqa: E402

from idr.cli.shared.common import choose_device, make_parser, say  # noqa: E402
from idr.errors import TrainingStoppedError  # noqa: E402
from idr.model.twins import find_kernel  # noqa: E402
from idr.training.capture import CapturedStep  # noqa: E402
from idr.training.rays.batches import Batch  # noqa: E402

MAX_READS = 3
"""In tracing, loss and gradients of a step; the trainer's check for finite values is a fourth."""

MAX_AMPLIFICATION = 5.0
"""Multiple of the tolerance up to which a gradient's error may be due to rounding."""

MAX_DOUBLE_DIFFERENCE = 1e-7
"""Relative difference of float64 gradients up to which device and CPU agree."""

GRID_CONF = "./confs/fast.conf"
"""Conf of the networks that the kernels are compared and timed on."""

BACKENDS = ("torch", "triton", "triton_atomic")
"""Backends of its hash grid. With the first, the accelerated tracer traces the rays."""

MAX_ERROR = 1e-3
"""Error of a gradient relative to its largest entry: float32's rounding times softplus's curvature of 100."""

MAX_OTHER_HITS = 0.01
"""Share of rays that may hit with one tracer and pass with another: those that graze the surface."""
CAPTURED = ("fixed", "fixed, captured")

MAX_LOSS_DIFFERENCE = 1e-3
"""Relative difference of the losses of ten repeated steps and of ten that are run: libraries may choose other
matrix products for a graph, and training amplifies rounding."""

CHECKS: dict[str, Callable[..., Any]] = {
    "networks": comparisons.networks,
    "evaluation": comparisons.evaluation,
    "training": comparisons.training,
    "trained cameras": comparisons.trained_cameras,
    "whole step": comparisons.whole_step,
}


@contextmanager
def golden_arrays_on(device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Moves the reference arrays of the comparisons to a device, optionally with another dtype."""
    arrays = golden.arrays

    def moved_arrays(*names: Any) -> dict[str, torch.Tensor]:
        moved = {key: value.to(device) for key, value in arrays(*names).items()}
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in moved.items()}

    try:
        golden.arrays = moved_arrays  # type: ignore[assignment]
        with device:
            yield
    finally:
        golden.arrays = arrays


def parity(device: torch.device) -> tuple[list[str], list[str]]:
    """Compares with the arrays of the published code on a device.

    Returns:
        Descriptions of violations, and of those due to amplified rounding only.
    """
    missed, rounded = [], []
    for name in golden.NAMES:
        for title, check in CHECKS.items():
            with golden_arrays_on(device):
                violations = check(name, make=lambda name: golden.model(name).to(device))
            for violation in violations:
                slight = violation.measured <= MAX_AMPLIFICATION * violation.bound
                difference = double_difference(name, check, violation.array, device) if slight else math.inf
                text = f"{title} of {name}: {violation}"
                if difference <= MAX_DOUBLE_DIFFERENCE:
                    rounded.append(
                        f"{text}; relative difference of device and CPU in float64 {difference:.1e}"
                    )
                else:
                    missed.append(text)
    return missed, rounded


def double_difference(name: str, check: Any, array: str, device: torch.device) -> float:
    """Difference of a float64 gradient between device and CPU, relative to its largest entry.

    Gradients of some steps amplify float32 rounding a thousandfold; a difference in float64 is not due to
    rounding.

    Returns:
        The difference; infinity if the array is not a parameter's gradient, or the device has no float64.
    """
    parameter = array.removeprefix("gradient of ")
    if parameter == array or device.type == "mps":
        return math.inf
    gradients = []
    for target in (torch.device("cpu"), device):
        models: list[Any] = []

        def make(name: str, target: torch.device = target, models: list[Any] = models) -> Any:
            models.append(golden.model(name).to(target, torch.float64))
            return models[-1]

        with golden_arrays_on(target, torch.float64):
            check(name, make=make)
        gradient = dict(models[-1].named_parameters()).get(parameter)
        if gradient is None or gradient.grad is None:
            return math.inf
        gradients.append(gradient.grad.cpu())
    return golden.difference(gradients[1], gradients[0])


class Steps(TrainingSteps):
    """Training steps on one view, with a count of reads.

    Args:
        strategy: Tracer strategy.
        arguments: Command line arguments.
        device: Device.
    """

    def __init__(self, strategy: str, arguments: argparse.Namespace, device: torch.device) -> None:
        super().__init__(strategy, arguments.conf, arguments.overrides, arguments.rays, device)

    def reads(self, count: int) -> dict[str, Any]:
        """Counts the reads per step, except in steps that built a grid."""
        steps, watched = [], []
        for _ in range(count):
            with warnings.catch_warnings(record=True) as caught, ReadCounter() as counter:
                warnings.simplefilter("always")
                if self.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("warn")
                self.step()
                if self.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            if not any("sdf_grid.py" in place for place in counter.places):
                steps.append(counter.places)
                watched.append(sum("synchroniz" in str(warning.message) for warning in caught))
        most = max(steps, key=len, default=[])
        return {"steps": len(steps), "most": len(most), "places": most, "watched": max(watched, default=0)}


def _median_ms(function: Callable[[], object], device: torch.device, count: int) -> float:
    """Median wall time of a call in milliseconds, after three warm-up calls."""
    times = []
    for _ in range(count + 3):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[3:])


def _grid_steps(backend: str, arguments: argparse.Namespace, device: torch.device) -> Steps:
    """Steps of the grid's conf with a backend, with features that differ from zero."""
    overrides = argparse.Namespace(
        conf=GRID_CONF, rays=arguments.rays, overrides=[f"model.implicit_network.encoding.backend={backend}"]
    )
    steps = Steps("compiled", overrides, device)
    table = steps.model.implicit_network.encoding.get_parameter("table")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        table.copy_(0.02 * (2 * torch.rand(table.shape, generator=generator) - 1))
    return steps


def _field_gradients(network: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Value and gradient of f, and the gradients of a loss of both w.r.t. the parameters."""
    output, gradient = network.value_and_gradient(x)
    loss = output.square().mean() + (gradient.norm(dim=1) - 1).square().mean()
    gradients = torch.autograd.grad(loss, tuple(network.parameters()))
    return [output.detach(), gradient.detach(), *gradients]


def kernels(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Compares and times the hash grid's backends; empty where Triton's kernels do not run.

    Returns:
        For each backend: ``error``, the largest relative error against plain torch in float64; ``hits``, the
        share of rays that hit with one tracer only; wall times in ms of f with all gradients at ten points
        per ray (``field``), of a forward pass with tracing (``forward``) and of a training step (``step``).
    """
    module = find_kernel("hashgrid_triton")
    if module is None or not module.runs_on(device):
        return []
    x = 2 * torch.rand(10 * arguments.rays, 3, generator=torch.Generator().manual_seed(1)).to(device) - 1
    oracle = _grid_steps("torch", arguments, device).model.implicit_network.double()
    expected = _field_gradients(oracle, x.double())
    rows: list[dict[str, Any]] = []
    first_hit = None
    for backend in BACKENDS:
        steps = _grid_steps(backend, arguments, device)
        network = steps.model.implicit_network
        pairs = zip(_field_gradients(network, x), expected, strict=True)
        errors = [float((one - two).abs().max() / two.abs().max().clamp_min(1e-12)) for one, two in pairs]

        @torch.no_grad()
        def forward(steps: Steps = steps) -> torch.Tensor:
            return steps.model(steps.sample)["network_object_mask"]

        hit = forward()
        first_hit = hit if first_hit is None else first_hit
        rows.append(
            {
                "backend": backend,
                "error": max(errors),
                "hits": float((hit != first_hit).float().mean()),
                "field": _median_ms(functools.partial(_field_gradients, network, x), device, arguments.steps),
                "forward": _median_ms(forward, device, arguments.steps),
                "step": 1000 * steps.seconds(arguments.steps),
            }
        )
    return rows


class CapturedSteps(Steps):
    """Steps of ``strategy = fixed`` as ``train.capture`` runs them; `losses` are those of all steps.

    Args:
        arguments: Command line arguments.
        device: Device.
        records: Repeat them as a graph; otherwise run them operator by operator.
    """

    def __init__(self, arguments: argparse.Namespace, device: torch.device, records: bool) -> None:
        super().__init__("fixed", arguments, device)
        adam = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True, capturable=True)
        self.captured = CapturedStep(self.model, self.loss, adam, None)
        if not records:
            self.captured._backend = None
        self.losses: list[torch.Tensor] = []

    def step(self) -> None:
        """Performs one training step; its draws depend on its number alone."""
        torch.manual_seed(len(self.losses))
        batch = Batch(torch.zeros(1, dtype=torch.long, device=self.device), self.sample, self.truth)
        self.losses.append(self.captured(batch).losses["loss"])


def captured(arguments: argparse.Namespace, device: torch.device) -> tuple[dict[str, float], float]:
    """Compares captured steps with those that are run.

    Returns:
        Seconds of both, and the largest relative difference of the losses of the first ten steps.
    """
    steps = {name: CapturedSteps(arguments, device, name == "fixed, captured") for name in CAPTURED}
    seconds = {name: some.seconds(max(arguments.steps, 10)) for name, some in steps.items()}
    run, repeated = (torch.stack(some.losses[:10]).double() for some in steps.values())
    return seconds, float(((run - repeated) / run).abs().max())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the checks; captured steps on CUDA alone."""
    device = choose_device("auto", arguments.device)
    missed, rounded = parity(device)
    accelerated = Steps("accelerated", arguments, device)
    accelerated.step()
    reads = accelerated.reads(arguments.steps)
    seconds = {name: Steps(name, arguments, device).seconds(arguments.steps) for name in arguments.strategies}
    difference = None
    if device.type == "cuda":
        times, difference = captured(arguments, device)
        seconds |= times
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "device": name,
        **machine(),
        "missed": missed,
        "rounded": rounded,
        "reads": reads,
        "seconds": seconds,
        "kernels": kernels(arguments, device),
        "difference": difference,
    }


def report(result: dict[str, Any]) -> None:
    """Prints the result; raises `TrainingStoppedError` if parity, the number of reads or a kernel fails."""
    reads, missed = result["reads"], result["missed"]
    say(f"{result['device']}, torch {result['torch']}")
    violations = (
        f"{len(missed)} arrays exceed their tolerances" if missed else "all arrays within their tolerances"
    )
    say(f"parity: {violations}")
    for line in missed:
        say(f"  {line}")
    for line in result["rounded"]:
        say(f"  due to amplified float32 rounding: {line}")
    say(f"reads: at most {reads['most']} per step in {reads['steps']} steps; by PyTorch {reads['watched']}")
    for place in reads["places"]:
        say(f"  {place}")
    for name, seconds in result["seconds"].items():
        say(f"step, {name}: {1000 * seconds:.1f} ms")
    if result["kernels"]:
        say("hash grid of fast.conf    error  other hits   field ms forward ms    step ms")
    else:
        say("hash grid: Triton's kernels do not run on this device")
    for row in result["kernels"]:
        times = "".join(f"{row[name]:11.2f}" for name in ("field", "forward", "step"))
        say(f"  {row['backend']:20}{row['error']:9.1e}{row['hits']:12.2%}{times}")
    difference = result["difference"]
    if difference is not None:
        say(f"losses of captured steps: relative difference at most {difference:.1e}")
    wrong = [row for row in result["kernels"] if row["error"] > MAX_ERROR or row["hits"] > MAX_OTHER_HITS]
    agrees = difference is None or difference <= MAX_LOSS_DIFFERENCE
    if missed or wrong or not agrees or reads["most"] > MAX_READS:
        raise TrainingStoppedError("the device differs from the CPU; see above")


def main() -> int:
    """Runs the check."""
    parser = make_parser("Checks a device: parity, reads per training step, step time.")
    parser.add_argument("--device", default=None, help="cuda, cuda:N, mps or cpu; the best one by default")
    parser.add_argument("--conf", default="./confs/dtu_fixed_cameras.conf", help="conf of the network")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override (key=value)")
    parser.add_argument("--rays", type=int, default=2048, help="rays per step")
    parser.add_argument("--steps", type=int, default=20, help="steps to count and time")
    parser.add_argument(
        "--strategies", nargs="+", default=["published", "accelerated"], help="tracers to time"
    )
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
