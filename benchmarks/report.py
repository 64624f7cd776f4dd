"""Writes a markdown page from JSON files of the benchmarks.

    python benchmarks/report.py results/train_step.json results/render.json results/mesh.json --out results.md

The files are those that train_step, render, mesh, scaling and limit write with ``--json``. Each section names
its machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from idr.cli.shared.common import make_parser, run, say  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def machine_line(result: dict[str, Any]) -> str:
    """Describes the machine."""
    cores = f", {result['cores']} cores" if "cores" in result else ""
    return f"{result['machine']}{cores}, {result['threads']} threads, torch {result['torch']}."


def train_step_section(result: dict[str, Any]) -> str:
    """Section of a training step."""
    rows = [
        [
            strategy,
            f"{values['seconds']['whole step']:.3f}",
            f"{values['seconds_of_tracing']:.3f}",
            f"{values['evaluations_per_ray_of_tracing']:.2f}",
        ]
        for strategy, values in result["strategies"].items()
    ]
    head = ["tracer", "step (s)", "tracing (s)", "evaluations per ray, tracing"]
    return f"## Training step, {result['rays']} rays\n\n{machine_line(result)}\n\n{table(head, rows)}\n"


def render_section(result: dict[str, Any]) -> str:
    """Section of rendering."""
    rows = [
        [tracer, f"{values['seconds']:.2f}", f"{values['evaluated'] / result['pixels']:.2f}"]
        for tracer, values in result["ways"].items()
    ]
    head = ["tracer", "view (s)", "evaluations per pixel"]
    return f"## Rendering, {result['pixels']:.0f} pixels\n\n{machine_line(result)}\n\n{table(head, rows)}\n"


def mesh_section(result: dict[str, Any]) -> str:
    """Section of meshing; ``~`` marks estimated dense times."""
    rows = []
    for row in result["rows"]:
        mark = "" if row["dense_timed_whole"] else "~"
        rows.append([
            str(row["resolution"]),
            f"{mark}{row['dense_seconds']:.1f}",
            f"{row['sparse_seconds']:.1f}",
            f"{row['dense_evaluations']:,}",
            f"{row['sparse_evaluations']:,}",
        ])  # fmt: skip
    head = ["resolution", "dense (s)", "sparse (s)", "dense evaluations", "sparse evaluations"]
    note = "\n`~`: from a random 1 % of the chunks, network only, scaled by the exact count.\n"
    estimated = any(not row["dense_timed_whole"] for row in result["rows"])
    page = f"## Meshing, {result['network']}\n\n{machine_line(result)}\n\n{table(head, rows)}\n"
    return page + (note if estimated else "")


def scaling_section(result: dict[str, Any]) -> str:
    """Section of scaling; ``~`` marks estimated baselines."""
    tables = []
    for part, rows in result["scaling"].items():
        names = ("dense", "sparse") if part == "resolution" else ("published", "accelerated")
        cells = []
        for row in rows:
            mark = "" if row.get(f"{names[0]}_timed_whole", True) else "~"
            slow, fast = row[f"{names[0]}_seconds"], row[f"{names[1]}_seconds"]
            cells.append([str(row[part]), f"{mark}{slow:.3f}", f"{fast:.3f}", f"{mark}{slow / fast:.1f}"])
        tables.append(table([part, f"{names[0]} (s)", f"{names[1]} (s)", "speedup"], cells))
    return f"## Scaling\n\n{machine_line(result)}\n\n" + "\n\n".join(tables) + "\n"


def limit_section(result: dict[str, Any]) -> str:
    """Section of the gradient part's throughput."""
    left = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in result["remaining"])
    return (
        f"## Throughput of the gradient part of a step, {result['rays']} rays\n\n{machine_line(result)}\n\n"
        f"{result['achieved_gflops']:.1f} GFLOP/s of the {result['machine_gflops']:.1f} GFLOP/s that the "
        f"same matrix products reach alone ({result['seconds']:.3f} s; products "
        f"{result['seconds_of_products']:.3f} s). Remaining time: {left}.\n"
    )


SECTIONS = {
    "scaling": scaling_section,
    "limit": limit_section,
    "strategies": train_step_section,
    "ways": render_section,
    "rows": mesh_section,
}
"""Section of each benchmark, by a key that only its files have."""


def section(path: Path) -> str:
    """Section of one file; raises `InputError` if none of `SECTIONS` fits."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected a file written by a benchmark's --json") from error
    for key, write in SECTIONS.items():
        if isinstance(result, dict) and key in result:
            try:
                return write(result)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{path}: lacks {error}; expected a file of train_step, render or mesh"
                ) from error
    raise InputError(f"{path}: unknown content; expected results of train_step, render or mesh, from --json")


def main() -> int:
    """Runs the command."""
    parser = make_parser("Writes a markdown page from the benchmarks' JSON files.")
    parser.add_argument("files", nargs="+", type=Path, help="JSON files of train_step, render, mesh")
    parser.add_argument("--out", type=Path, required=True, help="markdown file to write")
    arguments: argparse.Namespace = parser.parse_args()

    def body() -> None:
        page = "# Benchmarks\n\n" + "\n".join(section(path) for path in arguments.files)
        write_text_atomic(arguments.out, page)
        say(f"wrote {arguments.out}")

    return run(body)


if __name__ == "__main__":
    raise SystemExit(main())
