"""The table and the overview page of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from idr.evaluation.chamfer import ChamferResult
    from idr.evaluation.results import RenderingScores
    from idr.export.surface import Surface
    from idr.pictures.page import Table

SHOWN_VIEWS = 3


@dataclass(frozen=True)
class Scores:
    """Scores of one run.

    The camera errors are means of rotations (degrees) and centers (world units), before and after training.
    """

    views: tuple[RenderingScores, RenderingScores]  # training, held-out
    chamfer: ChamferResult | None  # distances to the exact surface
    cameras: tuple[tuple[float, float], tuple[float, float]] | None  # None without trained ones
    minutes: float  # of training
    surface: Surface | None  # in world coordinates, None without one
    upright: NDArray[np.float64]  # (3, 3) rotation from world coordinates to glTF's axes
    folder: Path  # of mesh and renderings


def score_table(scores: dict[str, Scores], ceiling: Sequence[RenderingScores] | None) -> Table:
    """Returns a table of what was measured: a column per run, and one for the exact surface and colors."""
    from idr.pictures.page import Table

    none = "-"
    runs = list(scores.values())
    rows = []
    scored = ("PSNR, {} views (dB)", "{.psnr_mean:.2f}"), ("mask IoU, {} views", "{.iou_mean:.4f}")
    for label, form in scored:
        for split, views in enumerate(("training", "held-out")):
            best = form.format(ceiling[split]) if ceiling else none
            rows.append([label.format(views), *(form.format(run.views[split]) for run in runs), best])
    for label, name in (
        ("Chamfer (unit sphere)", "chamfer"), ("  accuracy", "accuracy"), ("  completeness", "completeness"),
    ):  # fmt: skip
        distances = [f"{getattr(run.chamfer, name):.5f}" if run.chamfer else none for run in runs]
        rows.append([label, *distances, "0"])
    for k, label in enumerate(("camera rotations (degrees)", "camera centers (world units)")):
        changes = [" -> ".join(f"{e[k]:.2f}" for e in run.cameras) if run.cameras else none for run in runs]
        rows.append([label, *changes, none])
    minutes = [f"{run.minutes:.1f}" if run.minutes else none for run in runs]
    rows.append(["training (minutes)", *minutes, none])
    measured = [row for row in rows if any(cell != none for cell in row[1:-1])]
    if not ceiling:
        return Table(["", *scores], [row[:-1] for row in measured])
    return Table(["", *scores, "exact surface, color"], measured)


def write_demo_overview(path: Path, table: Table, scores: dict[str, Scores], scene: Path) -> None:
    """Writes the page with the table, photographs next to renderings, and surfaces."""
    from idr.evaluation.report.page import write_overview
    from idr.pictures.page import CaptionedImage

    first = next(iter(scores.values()))
    numbers = [v.number for split in first.views for v in split.views[:SHOWN_VIEWS]]
    held_out = {v.number for v in first.views[1].views}
    rows = []
    for number in numbers:
        kind = "held-out view" if number in held_out else "view"
        row = [CaptionedImage(scene / "image" / f"{number:03d}.png", f"photograph, {kind} {number}")]
        for title, score in scores.items():
            stem = "heldout" if number in held_out else "eval"
            row.append(CaptionedImage(score.folder / "rendering" / f"{stem}_{number:03d}.png", title))
        rows.append(row)
    surfaces = {title: score.surface for title, score in scores.items() if score.surface is not None}
    write_overview(path, "IDR on the built-in scene", table, rows, surfaces, first.upright)
