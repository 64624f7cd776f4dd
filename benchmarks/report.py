"""One results page from the JSON files of the benchmarks.

    python benchmarks/report.py results/train_step.json results/render.json results/mesh.json --out results.md

Takes what train_step, render, mesh, scaling and limit wrote with ``--json``; names the machine of each file.
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
    """Returns a markdown table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def machine_line(result: dict[str, Any]) -> str:
    """Returns the machine in words."""
    cores = f", {result['cores']} cores" if "cores" in result else ""
    return f"{result['machine']}{cores}, {result['threads']} threads, torch {result['torch']}."


def of_train_step(result: dict[str, Any]) -> str:
    """Returns the table of a training step."""
    rows = [
        [
            strategy,
            f"{figures['seconds']['whole step']:.3f}",
            f"{figures['seconds_of_tracing']:.3f}",
            f"{figures['evaluations_per_ray_of_tracing']:.2f}",
        ]
        for strategy, figures in result["strategies"].items()
    ]
    head = ["tracer", "step, s", "tracing, s", "evaluations a ray, tracing"]
    return f"## Training step, {result['rays']} rays\n\n{machine_line(result)}\n\n{table(head, rows)}\n"


def of_render(result: dict[str, Any]) -> str:
    """Returns the table of rendering."""
    rows = [
        [way, f"{seen['seconds']:.2f}", f"{seen['evaluated'] / result['pixels']:.2f}"]
        for way, seen in result["ways"].items()
    ]
    head = ["tracer", "seconds a view", "evaluations a pixel"]
    return f"## Rendering, {result['pixels']:.0f} pixels\n\n{machine_line(result)}\n\n{table(head, rows)}\n"


def of_mesh(result: dict[str, Any]) -> str:
    """Returns the table of meshing; ``~`` marks dense times that were estimated."""
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
    head = ["resolution", "dense, s", "sparse, s", "dense evaluations", "sparse evaluations"]
    note = "\n`~`: from a random 1 % of the chunks, network alone, scaled by the exact count.\n"
    estimated = any(not row["dense_timed_whole"] for row in result["rows"])
    page = f"## Meshing, {result['network']}\n\n{machine_line(result)}\n\n{table(head, rows)}\n"
    return page + (note if estimated else "")


def of_scaling(result: dict[str, Any]) -> str:
    """Returns the tables of scaling; ``~`` marks baselines that were estimated."""
    tables = []
    for part, rows in result["scaling"].items():
        names = ("dense", "sparse") if part == "resolution" else ("published", "accelerated")
        cells = []
        for row in rows:
            mark = "" if row.get(f"{names[0]}_timed_whole", True) else "~"
            slow, fast = row[f"{names[0]}_seconds"], row[f"{names[1]}_seconds"]
            cells.append([str(row[part]), f"{mark}{slow:.3f}", f"{fast:.3f}", f"{mark}{slow / fast:.1f}"])
        tables.append(table([part, f"{names[0]}, s", f"{names[1]}, s", "times faster"], cells))
    return f"## Scaling\n\n{machine_line(result)}\n\n" + "\n\n".join(tables) + "\n"


def of_limit(result: dict[str, Any]) -> str:
    """Returns what the gradient part achieves."""
    left = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in result["remaining"])
    return (
        f"## The limit: gradient part of a step, {result['rays']} rays\n\n{machine_line(result)}\n\n"
        f"{result['achieved_gflops']:.1f} GFLOP/s of the {result['machine_gflops']:.1f} GFLOP/s that the "
        f"same matrix products reach alone ({result['seconds']:.3f} s, of which products alone "
        f"{result['seconds_of_products']:.3f} s). What remains: {left}.\n"
    )


SECTIONS = {
    "scaling": of_scaling,
    "limit": of_limit,
    "strategies": of_train_step,
    "ways": of_render,
    "rows": of_mesh,
}
"""What writes the section of a file, by the key that only this benchmark's files have."""


def section(path: Path) -> str:
    """Returns the section of one file.

    Raises:
        InputError: If no benchmark reported here wrote the file.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; give files written by a benchmark's --json") from error
    for key, write in SECTIONS.items():
        if isinstance(result, dict) and key in result:
            try:
                return write(result)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{path}: lacks {error}; expected a file of train_step, render or mesh"
                ) from error
    raise InputError(f"{path}: expected figures of train_step, render or mesh; write them with --json")


def main() -> int:
    """Writes the page."""
    parser = make_parser("Turns the benchmarks' JSON files into one page.")
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
