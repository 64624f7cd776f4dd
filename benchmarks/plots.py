"""Plots of the benchmarks' results, by matplotlib (`pip install -e '.[dev]'`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CURVES = {
    "psnr_holdout": "PSNR, held-out views (dB)",
    "chamfer": "Chamfer distance",
    "points_median": "median point-to-mesh distance",
}
"""Quantities plotted over time, with axis labels."""

CLOCKS = {"processor_minutes": "CPU time (min)", "minutes": "wall time (min)"}
"""Horizontal axes with labels, in order of preference: CPU time is not affected by other processes."""

Lines = dict[str, tuple[list[Any], list[float]]]


def panels(result: dict[str, Any]) -> dict[str, Lines]:
    """Data of each panel, by the label of its horizontal axis: positions and seconds of each line."""
    if "strategies" in result:
        seconds = {name: values["seconds"]["whole step"] for name, values in result["strategies"].items()}
        return {"tracer": {"training step": (list(seconds), list(seconds.values()))}}
    if "ways" in result:
        seconds = {name: values["seconds"] for name, values in result["ways"].items()}
        return {"tracer": {"view": (list(seconds), list(seconds.values()))}}
    parts = {"resolution": result["rows"]} if "rows" in result else result.get("scaling", {})
    lines = {}
    for name, rows in parts.items():
        methods = ("dense", "sparse") if name == "resolution" else ("published", "accelerated")
        lines[name] = {
            method: ([row[name] for row in rows], [row[f"{method}_seconds"] for row in rows])
            for method in methods
        }
    return lines


def draw(result: dict[str, Any], file: Path) -> bool:
    """Writes a plot.

    Args:
        result: Result of a benchmark, as in its JSON file.
        file: The PNG.

    Returns:
        Whether the result has anything to plot.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    if "curves" in result:
        _draw_curves(result, file)
        return True
    parts = panels(result)
    if not parts:
        return False
    figure = Figure(figsize=(5 * len(parts), 4), layout="constrained")
    for axes, (title, lines) in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True
    ):
        for label, (positions, seconds) in lines.items():
            if title == "tracer":
                axes.bar(positions, seconds, label=label)
                axes.tick_params("x", labelsize=7)
            else:
                axes.loglog(positions, seconds, marker="o", label=label)
                axes.set_xticks(positions, [str(position) for position in positions])
                axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(title)
        axes.set_ylabel("time (s)")
        axes.legend()
    figure.suptitle(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}", fontsize=8)
    figure.savefig(file, dpi=120)
    return True


def _draw_curves(result: dict[str, Any], file: Path) -> None:
    """Plots the curves of `fast.py`, one line per conf."""
    from matplotlib.figure import Figure

    curves = {conf: curve["rows"] for conf, curve in result["curves"].items()}
    every = [row for rows in curves.values() for row in rows]
    keys = [key for key in CURVES if any(key in row for row in every)]
    clock = next(key for key in CLOCKS if all(key in row for row in every))
    figure = Figure(figsize=(5 * max(len(keys), 1), 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, max(len(keys), 1), squeeze=False)[0], keys, strict=False):
        for conf, rows in curves.items():
            points = [(row[clock], row[key]) for row in rows if key in row]
            axes.plot(*zip(*points, strict=True), marker="o", label=conf)
        axes.set_xlabel(CLOCKS[clock])
        axes.set_ylabel(CURVES[key])
        axes.legend()
    figure.suptitle(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}", fontsize=8)
    figure.savefig(file, dpi=120)
