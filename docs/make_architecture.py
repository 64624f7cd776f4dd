"""Draws the house from its imports and fills in the generated parts of docs/architecture.md.

    python docs/make_architecture.py

Writes ``docs/architecture.svg``: the units of ``code/idr`` on four floors, with an arrow from each unit to
those that it imports. It leaves out the arrows that follow from others, and the leaves (errors, files,
failures, progress_bar), which anything may import. Then renews the reading list in ``docs/architecture.md``.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "code")]

from tests.contracts.test_imports import FLOORS, LEAVES, MODULES, imports_of, parse, unit_of  # noqa: E402

PAGE, DRAWING = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"
READING_LIST = {
    "The training loop": (
        "code/training/exp_runner.py", "code/idr/cli/train.py", "code/idr/training/trainer.py",
        "code/idr/training/config.py", "code/idr/training/state.py", "code/idr/training/optimizers.py",
    ),
    "Rays and schedules": (
        "code/idr/training/rays/batches.py", "code/idr/training/rays/randomness.py",
        "code/idr/training/schedule/settings.py", "code/idr/training/schedule/by_epoch.py",
        "code/idr/training/schedule/by_step.py",
    ),
    "Networks and losses": (
        "code/idr/model/implicit_differentiable_renderer.py", "code/idr/model/implicit_network.py",
        "code/idr/model/rendering_network.py", "code/idr/model/layers.py", "code/idr/model/embedder.py",
        "code/idr/model/encodings/base.py", "code/idr/model/encodings/sinusoids.py",
        "code/idr/model/sample_network.py", "code/idr/model/loss.py",
    ),
    "Cameras and data": (
        "code/idr/geometry/cameras.py", "code/idr/geometry/quaternions.py", "code/idr/geometry/spheres.py",
        "code/idr/datasets/scene_dataset.py", "code/idr/datasets/camera_files.py",
        "code/idr/training/cameras/poses.py",
    ),
    "Ray tracing": (
        "code/idr/model/tracing/common.py", "code/idr/model/tracing/published.py",
        "code/idr/fields/sdf_grid.py", "code/idr/model/tracing/accelerated/tracer.py",
        "code/idr/model/tracing/accelerated/samples.py", "code/idr/model/tracing/accelerated/marching.py",
        "code/idr/model/tracing/accelerated/network_search.py",
    ),
    "Rendering, meshing, alignment": (
        "code/idr/rendering.py", "code/idr/meshing/extract.py", "code/idr/meshing/frame.py",
        "code/idr/geometry/alignment.py",
    ),
}  # fmt: skip
"""The method in the order in which to read it; files below the repository's root."""
BOX_HEIGHT, ROW_HEIGHT, CHARACTER, MARGIN = 26, 62, 7.4, 20
WIDTH = 1120
COLORS = {"base": "#e8e8e8", "method": "#cfe3f5", "kernels": "#fde2c4", "tools": "#d9ecd0"}


def unit_graph() -> dict[str, set[str]]:
    """Returns which units each unit imports, without the leaves."""
    graph: dict[str, set[str]] = {unit: set() for floor in FLOORS.values() for unit in floor}
    for name, path in MODULES.items():
        graph[unit_of(name)] |= {unit_of(module) for _, module in imports_of(parse(path))}
    return {unit: imported - LEAVES - {unit} for unit, imported in graph.items() if unit not in LEAVES}


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Returns all units that a unit imports, by way of others too."""
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leaves out the arrows that follow from others."""
    return {
        unit: {two for two in imported if not any(two in reachable(graph, one) for one in imported - {two})}
        for unit, imported in graph.items()
    }


def rows_of(graph: dict[str, set[str]]) -> list[tuple[str, list[str]]]:
    """Returns floor and units of each row, from the bottom; a unit stands above all that it imports."""
    rows: list[tuple[str, list[str]]] = []
    for floor, units in FLOORS.items():
        left = [unit for unit in units if unit in graph]
        while left:
            row = [unit for unit in left if not graph[unit] & set(left)]
            if not row:
                raise SystemExit(f"units that import one another: {', '.join(left)}")
            rows.append((floor, sorted(row)))
            left = [unit for unit in left if unit not in row]
    return rows


def drawing() -> str:
    """Returns the drawing as SVG."""
    graph = unit_graph()
    rows = rows_of(graph)
    height = MARGIN * 2 + ROW_HEIGHT * len(rows)
    shapes, boxes = [], {}
    for number, (floor, units) in enumerate(rows):
        top = height - MARGIN - ROW_HEIGHT * (number + 1)
        shapes.append(
            f'<rect x="0" y="{top}" width="{WIDTH}" height="{ROW_HEIGHT}" '
            f'fill="{COLORS[floor]}" opacity="0.45"/>'
        )
        if number == 0 or rows[number - 1][0] != floor:
            shapes.append(
                f'<text x="8" y="{top + ROW_HEIGHT - 8}" font-style="italic" fill="#555">{floor}</text>'
            )
        for place, unit in enumerate(units):
            name = "idr" if unit == "__init__" else unit
            wide = CHARACTER * len(name) + 18
            middle = 90 + (WIDTH - 110) * (place + 0.5 + 0.25 * (number % 2) - 0.125) / len(units)
            boxes[unit] = (middle, top + (ROW_HEIGHT - BOX_HEIGHT) / 2, wide, name, floor)
    for unit, imported in reduced(graph).items():
        for other in sorted(imported):
            x1, y1 = boxes[unit][0], boxes[unit][1] + BOX_HEIGHT
            x2, y2 = boxes[other][0], boxes[other][1]
            bend = (y2 - y1) * 0.4
            shapes.append(
                f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} '
                f'{x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}" '
                'fill="none" stroke="#667" stroke-width="1.1" opacity="0.75" marker-end="url(#tip)"/>'
            )
    for middle, top, wide, name, floor in boxes.values():
        shapes.append(
            f'<rect x="{middle - wide / 2:.0f}" y="{top:.0f}" width="{wide:.0f}" height="{BOX_HEIGHT}" '
            f'rx="5" fill="{COLORS[floor]}" stroke="#445"/>'
            f'<text x="{middle:.0f}" y="{top + 17:.0f}" text-anchor="middle">{name}</text>'
        )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="white"/>'
    )
    return "\n".join([head, tip, *shapes, "</svg>"]) + "\n"


def lines_of(path: str) -> int:
    """Counts the lines of a file."""
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def reading_list() -> str:
    """Returns the reading list as a table, with lines and their sum."""
    rows = ["| part | file | lines | sum |", "|---|---|---:|---:|"]
    total = 0
    for part, files in READING_LIST.items():
        for number, file in enumerate(files):
            total += lines_of(file)
            rows.append(
                f"| {part if number == 0 else ''} | [{file}](../{file}) | {lines_of(file)} | {total:,} |"
            )
    return "\n".join(rows)


def filled(text: str) -> str:
    """Returns the page with its generated part renewed."""
    begin, end = "<!-- reading list: begin -->", "<!-- reading list: end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{reading_list()}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    DRAWING.write_text(drawing(), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
