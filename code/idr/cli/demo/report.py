"""The table and the overview page of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trimesh

    from idr.evaluation.chamfer import ChamferResult
    from idr.evaluation.results import RenderingScores
    from idr.pictures.page import Table

SHOWN_VIEWS = 3


@dataclass(frozen=True)
class Scores:
    """Scores of one run.

    Attributes:
        views: Scores of the training and of the held-out views.
        chamfer: Distances to the exact surface, or None without a surface.
        cameras: Mean errors of rotations (degrees) and centers (world units) before and after training, or
            None without trained cameras.
        minutes: Training time.
        mesh: The surface in world coordinates, or None.
        folder: Folder of mesh and renderings.
    """

    views: tuple[RenderingScores, RenderingScores]
    chamfer: ChamferResult | None
    cameras: tuple[tuple[float, float], tuple[float, float]] | None
    minutes: float
    mesh: trimesh.Trimesh | None
    folder: Path


def score_table(scores: dict[str, Scores], ceiling: Sequence[RenderingScores] | None) -> Table:
    """Returns a table with a column per run and one for the exact surface and colors."""
    from idr.pictures.page import Table

    none = "-"
    best = [f"{split.psnr_mean:.2f}" for split in ceiling] if ceiling else [none, none]
    best_iou = [f"{split.iou_mean:.4f}" for split in ceiling] if ceiling else [none, none]

    def line(label: str, cells: Sequence[str], limit: str = none) -> list[str]:
        return [label, *cells, limit]

    def cameras(score: Scores, which: int, form: str) -> str:
        if score.cameras is None:
            return none
        before, after = score.cameras
        return f"{before[which]:{form}} -> {after[which]:{form}}"

    def distance(score: Scores, name: str) -> str:
        return none if score.chamfer is None else f"{getattr(score.chamfer, name):.5f}"

    all_scores = list(scores.values())
    rows = [
        line("PSNR, training views (dB)", [f"{s.views[0].psnr_mean:.2f}" for s in all_scores], best[0]),
        line("PSNR, held-out views (dB)", [f"{s.views[1].psnr_mean:.2f}" for s in all_scores], best[1]),
        line("mask IoU, training views", [f"{s.views[0].iou_mean:.4f}" for s in all_scores], best_iou[0]),
        line("mask IoU, held-out views", [f"{s.views[1].iou_mean:.4f}" for s in all_scores], best_iou[1]),
        line("Chamfer (unit sphere)", [distance(s, "chamfer") for s in all_scores], "0"),
        line("  accuracy", [distance(s, "accuracy") for s in all_scores], "0"),
        line("  completeness", [distance(s, "completeness") for s in all_scores], "0"),
        line("camera rotations (degrees)", [cameras(s, 0, ".2f") for s in all_scores]),
        line("camera centers (world units)", [cameras(s, 1, ".2f") for s in all_scores]),
        line("training (minutes)", [f"{s.minutes:.1f}" if s.minutes else none for s in all_scores]),
    ]
    return Table(["", *scores, "exact surface, color"], rows)


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
    surfaces = {title: score.mesh for title, score in scores.items() if score.mesh is not None}
    write_overview(path, "IDR on the built-in scene", table, rows, surfaces)
