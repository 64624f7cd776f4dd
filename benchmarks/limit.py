"""Throughput of the gradient part of a training step, compared with its matrix products alone.

    python benchmarks/limit.py --json results/limit.json

The gradient part is a step without tracing and optimizer: f and its gradient, shading, losses, and their
backward pass. Its matrix products are recorded with shapes and strides, so their number of operations is
exact. The same products alone, on arrays with the same strides, give the machine's peak rate; both are timed
alternately. The remaining time is element-wise work (softplus and its derivatives, encodings) and memory
traffic.

Prints both rates in GFLOP/s, and the operators that take most of the remaining time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "code"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402
from steps import TrainingSteps  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from idr.cli.shared.common import add_conf_arguments, make_parser, say  # noqa: E402

Layout = tuple[tuple[int, ...], tuple[int, ...]]
GIGA = 1e9


class ProductRecorder(TorchDispatchMode):
    """Records all matrix products except those of 4 x 4 cameras (``bmm``).

    Attributes:
        products: Count of each pair of factors, by shapes and strides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[Layout, Layout]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.products[(tuple(left.shape), left.stride()), (tuple(right.shape), right.stride())] += 1
        elif name in ("baddbmm", "addmv", "mv", "dot", "convolution"):
            raise AssertionError(f"{name}: an uncounted product")
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiply-add."""
        return sum(
            2 * left[0][0] * left[0][1] * right[0][1] * n for (left, right), n in self.products.items()
        )


def like(layout: Layout) -> Tensor:
    """A random array with a shape and strides."""
    shape, strides = layout
    size = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    return torch.randn(size).as_strided(shape, strides)


def multiply(factors: list[tuple[Tensor, Tensor, int]]) -> float:
    """Wall time in seconds of all products alone."""
    started = time.perf_counter()
    for left, right, count in factors:
        for _ in range(count):
            torch.mm(left, right)
    return time.perf_counter() - started


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times the gradient part and its products alternately."""
    steps = TrainingSteps(
        "accelerated", arguments.conf, arguments.overrides, arguments.rays, torch.device("cpu")
    )
    trace = steps.model._trace
    kept: list[Any] = []

    def trace_once(*given: Any) -> Any:
        if not kept:
            kept.append(trace(*given))
        return kept[0]

    steps.model._trace = trace_once  # type: ignore[method-assign, assignment]
    steps.backward()
    with ProductRecorder() as recorder:
        steps.backward()
    factors = [(like(left), like(right), count) for (left, right), count in recorder.products.items()]
    multiply(factors)
    part, products = [], []
    for _ in range(arguments.repetitions):
        started = time.perf_counter()
        steps.backward()
        part.append(time.perf_counter() - started)
        products.append(multiply(factors))
    seconds, of_products = statistics.median(part), statistics.median(products)
    return {
        "limit": True,
        "conf": arguments.conf,
        "rays": arguments.rays,
        **machine(),
        "load": os.getloadavg()[0],
        "repetitions": arguments.repetitions,
        "gflop": recorder.flops / GIGA,
        "num_products": sum(recorder.products.values()),
        "seconds": seconds,
        "seconds_of_products": of_products,
        "achieved_gflops": recorder.flops / GIGA / seconds,
        "machine_gflops": recorder.flops / GIGA / of_products,
        "remaining_seconds": seconds - of_products,
        "remaining": remaining(steps),
    }


def remaining(steps: TrainingSteps) -> list[list[Any]]:
    """Operators other than products with the largest self time, in seconds."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        steps.backward()
    rows = [[event.key, event.self_cpu_time_total / 1e6] for event in profile.key_averages()]
    others = [row for row in rows if row[0] not in ("aten::mm", "aten::addmm", "aten::addmm_")]
    return sorted(others, key=lambda row: -row[1])[:8]


def report(result: dict[str, Any]) -> None:
    """Prints the rates."""
    say(f"{result['conf']}, {result['rays']} rays; {result['threads']} threads, torch {result['torch']}")
    say(f"gradient part: {result['seconds']:.3f} s, {result['gflop']:.1f} GFLOP in products")
    say(f"achieved {result['achieved_gflops']:.1f} GFLOP/s; the same products alone "
        f"{result['machine_gflops']:.1f} GFLOP/s ({result['seconds_of_products']:.3f} s)")  # fmt: skip
    say(f"{result['achieved_gflops'] / result['machine_gflops']:.0%} of the peak rate; remaining time:")
    for name, seconds in result["remaining"]:
        say(f"  {name:<36}{seconds:>8.3f} s")


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Compares the gradient part of a step with the machine's matrix products.")
    add_conf_arguments(parser)
    parser.add_argument("--rays", type=int, default=2048)
    parser.add_argument("--repetitions", type=int, default=7)
    return run_benchmark(parser, measure, report)


if __name__ == "__main__":
    raise SystemExit(main())
