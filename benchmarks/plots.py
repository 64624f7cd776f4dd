"""Pictures of the benchmarks' figures, by matplotlib (`pip install -e .[dev]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CURVES = {"psnr_holdout": "PSNR held out, dB", "chamfer": "Chamfer", "points_median": "points, median"}
"""What is drawn over minutes of training, with the words beside it."""

CLOCKS = {"processor_minutes": "minutes of the processor", "minutes": "minutes from the process's start"}
"""Horizontal axes of curves, the better one first: other work does not count in the processor's time."""

Lines = dict[str, tuple[list[Any], list[float]]]


def panels(result: dict[str, Any]) -> dict[str, Lines]:
    """Returns what to draw: for each panel, named by its horizontal axis, the seconds of each way."""
    if "strategies" in result:
        ways = {name: figures["seconds"]["whole step"] for name, figures in result["strategies"].items()}
        return {"tracer": {"a training step": (list(ways), list(ways.values()))}}
    if "ways" in result:
        ways = {name: seen["seconds"] for name, seen in result["ways"].items()}
        return {"tracer": {"a view": (list(ways), list(ways.values()))}}
    parts = {"resolution": result["rows"]} if "rows" in result else result.get("scaling", {})
    drawn = {}
    for name, rows in parts.items():
        names = ("dense", "sparse") if name == "resolution" else ("published", "accelerated")
        drawn[name] = {
            way: ([row[name] for row in rows], [row[f"{way}_seconds"] for row in rows]) for way in names
        }
    return drawn


def draw(result: dict[str, Any], file: Path) -> bool:
    """Writes a PNG.

    Args:
        result: What a benchmark writes as JSON.
        file: The picture.

    Returns:
        Whether there was something to draw.

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
        for label, (places, seconds) in lines.items():
            if title == "tracer":
                axes.bar(places, seconds, label=label)
                axes.tick_params("x", labelsize=7)
            else:
                axes.loglog(places, seconds, marker="o", label=label)
                axes.set_xticks(places, [str(place) for place in places])
                axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(title)
        axes.set_ylabel("seconds")
        axes.legend()
    figure.suptitle(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}", fontsize=8)
    figure.savefig(file, dpi=120)
    return True


def _draw_curves(result: dict[str, Any], file: Path) -> None:
    """Draws what `fast` measured of each conf over its minutes."""
    from matplotlib.figure import Figure

    curves = {conf: found["rows"] for conf, found in result["curves"].items()}
    every = [row for rows in curves.values() for row in rows]
    keys = [key for key in CURVES if any(key in row for row in every)]
    clock = next(key for key in CLOCKS if all(key in row for row in every))
    figure = Figure(figsize=(5 * max(len(keys), 1), 4), layout="constrained")
    for axes, key in zip(figure.subplots(1, max(len(keys), 1), squeeze=False)[0], keys, strict=False):
        for conf, rows in curves.items():
            seen = [(row[clock], row[key]) for row in rows if key in row]
            axes.plot(*zip(*seen, strict=True), marker="o", label=conf)
        axes.set_xlabel(CLOCKS[clock])
        axes.set_ylabel(CURVES[key])
        axes.legend()
    figure.suptitle(f"{result['machine']}, {result['threads']} threads, torch {result['torch']}", fontsize=8)
    figure.savefig(file, dpi=120)
