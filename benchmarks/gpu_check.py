"""What a machine with a GPU has to show: parity, how often a step makes it wait, and one timing.

    make gpu-check
    python benchmarks/gpu_check.py --device cuda --json gpu_check.json

Parity: outputs, losses and gradients against the arrays of the published code, on the device, to the
tolerances that hold on a CPU; a gradient that misses them by amplified rounding alone, as float64 shows, is
told apart. Reads: how often a training step waits for the device, counted by operators
and, on CUDA, also by PyTorch's own watch. Timing: steps of the DTU conf by each tracer, medians.
Exit status 1 where parity or the count fails.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Iterator
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

MOST_READS = 3
"""In tracing, loss and gradients of a step; the trainer's check that all is finite is the fourth."""

MOST_AMPLIFIED = 5.0
"""Tolerances up to which a missed gradient may be rounding's."""

SAME_IN_DOUBLE = 1e-7
"""Relative difference of gradients in float64 up to which a device computes what a CPU does."""

CHECKS = {
    "networks": comparisons.networks,
    "evaluation": comparisons.evaluation,
    "training": comparisons.training,
    "trained cameras": comparisons.trained_cameras,
    "whole step": comparisons.whole_step,
}


@contextmanager
def golden_arrays_on(device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Has the comparisons find their arrays on a device, if asked in another floating-point precision."""
    arrays = golden.arrays

    def there(*given: Any) -> dict[str, torch.Tensor]:
        found = {key: value.to(device) for key, value in arrays(*given).items()}
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in found.items()}

    try:
        golden.arrays = there
        with device:
            yield
    finally:
        golden.arrays = arrays


def parity(device: torch.device) -> tuple[list[str], list[str]]:
    """Compares with the published code's arrays on a device.

    Returns:
        What is missed, in words, and what is missed by amplified rounding alone.
    """
    missed, rounded = [], []
    for name in golden.NAMES:
        for title, check in CHECKS.items():
            with golden_arrays_on(device):
                violations = check(name, make=lambda name: golden.model(name).to(device))
            for violation in violations:
                slight = violation.measured <= MOST_AMPLIFIED * violation.bound
                apart = apart_in_double(name, check, violation.array, device) if slight else math.inf
                where = f"{title} of {name}: {violation}"
                if apart <= SAME_IN_DOUBLE:
                    rounded.append(f"{where}; in float64 the device and the CPU differ by {apart:.1e} of it")
                else:
                    missed.append(where)
    return missed, rounded


def apart_in_double(name: str, check: Any, array: str, device: torch.device) -> float:
    """Measures how far a gradient in float64 on a device is from the CPU's, relative to its largest entry.

    The gradients of some steps amplify the rounding of float32 a thousandfold; what float64 leaves of a
    difference is none of rounding.

    Returns:
        The difference; infinity for what is no parameter's gradient, and on devices without float64.
    """
    parameter = array.removeprefix("gradient of ")
    if parameter == array or device.type == "mps":
        return math.inf
    gradients = []
    for where in (torch.device("cpu"), device):
        made: list[Any] = []

        def make(name: str, where: torch.device = where, made: list[Any] = made) -> Any:
            made.append(golden.model(name).to(where, torch.float64))
            return made[-1]

        with golden_arrays_on(where, torch.float64):
            check(name, make=make)
        gradient = dict(made[-1].named_parameters()).get(parameter)
        if gradient is None or gradient.grad is None:
            return math.inf
        gradients.append(gradient.grad.cpu())
    return golden.difference(gradients[1], gradients[0])


class Steps(TrainingSteps):
    """Training steps on one view, whose reads are counted.

    Args:
        strategy: The tracer.
        arguments: The command line's.
        device: Where.
    """

    def __init__(self, strategy: str, arguments: argparse.Namespace, device: torch.device) -> None:
        super().__init__(strategy, arguments.conf, arguments.overrides, arguments.rays, device)

    def reads(self, count: int) -> dict[str, Any]:
        """Counts the reads of steps, but for steps that built a grid."""
        steps, watched = [], []
        for _ in range(count):
            with warnings.catch_warnings(record=True) as said, ReadCounter() as counter:
                warnings.simplefilter("always")
                if self.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("warn")
                self.step()
                if self.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            if not any("sdf_grid.py" in place for place in counter.places):
                steps.append(counter.places)
                watched.append(sum("synchroniz" in str(warning.message) for warning in said))
        most = max(steps, key=len, default=[])
        return {"steps": len(steps), "most": len(most), "places": most, "watched": max(watched, default=0)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the three checks."""
    device = choose_device("auto", arguments.device)
    missed, rounded = parity(device)
    accelerated = Steps("accelerated", arguments, device)
    accelerated.step()
    reads = accelerated.reads(arguments.steps)
    seconds = {name: Steps(name, arguments, device).seconds(arguments.steps) for name in arguments.strategies}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "device": name,
        **machine(),
        "missed": missed,
        "rounded": rounded,
        "reads": reads,
        "seconds": seconds,
    }


def report(result: dict[str, Any]) -> None:
    """Prints the outcome.

    Raises:
        TrainingStoppedError: Parity or the count of reads fails.
    """
    reads, missed = result["reads"], result["missed"]
    say(f"{result['device']}, torch {result['torch']}")
    say(f"parity: {'all arrays within their tolerances' if not missed else f'{len(missed)} arrays missed'}")
    for line in missed:
        say(f"  {line}")
    for line in result["rounded"]:
        say(f"  but for the rounding of float32, amplified: {line}")
    say(f"reads: at most {reads['most']} in {reads['steps']} steps; PyTorch's watch saw {reads['watched']}")
    for place in reads["places"]:
        say(f"  {place}")
    for name, seconds in result["seconds"].items():
        say(f"step, {name}: {1000 * seconds:.1f} ms")
    if missed or reads["most"] > MOST_READS:
        raise TrainingStoppedError("the device does not do what a CPU does; see above")


def main() -> int:
    """Runs the check."""
    parser = make_parser("Checks a device: parity, reads of a training step, seconds of a step.")
    parser.add_argument("--device", default=None, help="cuda, cuda:N, mps or cpu; the best one by default")
    parser.add_argument("--conf", default="./confs/dtu_fixed_cameras.conf", help="conf of the network")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value of the conf")
    parser.add_argument("--rays", type=int, default=2048, help="rays a step")
    parser.add_argument("--steps", type=int, default=20, help="steps that are counted and timed")
    parser.add_argument("--strategies", nargs="+", default=["published", "accelerated"], help="tracers timed")
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
