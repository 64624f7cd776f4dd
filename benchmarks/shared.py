"""What the benchmarks share: the machine in words, and running one from its command line."""

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
    """Returns the CPU's model name as Linux tells it, elsewhere what Python knows."""
    listed = Path("/proc/cpuinfo")
    for line in listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def count_evaluations(network: torch.nn.Module, tell: Callable[[int], object]) -> None:
    """Tells of every evaluation of an implicit network how many points it has: each is encoded once."""

    def hook(encoding: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        tell(given[0].shape[0])

    network.get_submodule("encoding").register_forward_pre_hook(hook)


def machine() -> dict[str, Any]:
    """Returns what figures depend on besides the code."""
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
    """Measures, prints, and writes the figures where ``--json`` asks for them.

    Args:
        parser: The benchmark's own arguments; ``--json`` is added.
        measure: Returns the figures.
        report: Prints them.

    Returns:
        The exit status.
    """
    parser.add_argument("--json", default=None, help="file for the figures")
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
                say(f"no picture: {error}; pip install -e .[dev]")

    return run(body)
