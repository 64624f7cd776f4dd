"""Shared by the benchmarks: description of the machine, evaluation counts, and the command line."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plots import draw

from idr.cli.shared.common import run, say
from idr.files import write_text_atomic


def cpu_model() -> str:
    """The CPU's model name from /proc/cpuinfo, or from Python's `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def count_evaluations(network: torch.nn.Module, on_points: Callable[[int], object]) -> None:
    """Calls `on_points` with the number of points of every evaluation of an implicit network."""

    def hook(encoding: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        on_points(inputs[0].shape[0])

    network.get_submodule("encoding").register_forward_pre_hook(hook)


def machine() -> dict[str, Any]:
    """Threads, CPU, cores and torch version, for the JSON files."""
    return {
        "threads": torch.get_num_threads(),
        "machine": cpu_model(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def run_benchmark(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    report: Callable[[dict[str, Any]], None],
) -> int:
    """Runs a benchmark; with ``--json`` also writes its result, and a plot next to it.

    Args:
        parser: The benchmark's parser; ``--json`` is added.
        measure: Computes the result.
        report: Prints it.

    Returns:
        The exit status.
    """
    parser.add_argument("--json", default=None, help="JSON file for the result")
    arguments = parser.parse_args()

    def body() -> None:
        result = measure(arguments)
        report(result)
        if arguments.json:
            file = Path(arguments.json)
            write_text_atomic(file, json.dumps(result, indent=2) + "\n")
            try:
                if draw(result, file.with_suffix(".png")):
                    say(f"wrote {file} and {file.with_suffix('.png')}")
            except ImportError as error:
                say(f"no plot: {error}; pip install -e '.[dev]'")

    return run(body)
