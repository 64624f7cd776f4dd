"""Scores of a run on its page: cards, sentences and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import trimesh

from idr.evaluation.reconstruction import measure_cameras
from idr.evaluation.report.views import ComparedView
from idr.export.tidy import wholeness
from idr.pictures.page import Table
from idr.runs import Run
from idr.runs.views import given_intrinsics

MEMORIZED_DB = 3.0
"""Difference between training and held-out views, dB, from which the page warns of it."""


@dataclass(frozen=True)
class SplitScores:
    """Means over the views of one split: PSNR in dB, NaN if no view has a finite one, and mask IoU."""

    count: int
    psnr: float
    iou: float
    step: int


@dataclass(frozen=True)
class PageScores:
    """Scores of one checkpoint.

    Attributes:
        training: Of the training views shown.
        held_out: Of the held-out views shown; None without any.
        cameras: Mean errors of trained cameras against the given ones, degrees and world units; None if
            cameras were not trained.
        surface: Number of faces, and whether they are watertight; None without a surface.
    """

    training: SplitScores
    held_out: SplitScores | None
    cameras: tuple[float, float] | None
    surface: tuple[int, str] | None


def scores_of(
    run: Run, training: Sequence[ComparedView], held_out: Sequence[ComparedView], mesh: trimesh.Trimesh | None
) -> PageScores:
    """Returns the scores of a run with its views and its mesh."""
    cameras = None
    if run.trained_poses is not None:
        errors = measure_cameras(run)
        cameras = float(errors.rotation_degrees.mean()), float(errors.translation.mean())
    surface = None if mesh is None else (len(mesh.faces), wholeness(mesh).partition(";")[0])
    return PageScores(_mean(training), _mean(held_out) if held_out else None, cameras, surface)


def _mean(views: Sequence[ComparedView]) -> SplitScores:
    finite = [view.psnr for view in views if math.isfinite(view.psnr)]
    psnr = sum(finite) / len(finite) if finite else math.nan
    return SplitScores(len(views), psnr, sum(view.iou for view in views) / len(views), views[0].step)


def number_cards(before: PageScores | None, after: PageScores) -> list[dict[str, str]]:
    """Returns the numbers on top of the page, from the first checkpoint to the one shown."""
    old = before or PageScores(SplitScores(0, math.nan, math.nan, 1), None, None, None)
    note = f"mean of {_views(after.training.count)} of the training"
    psnr = _change(old.training.psnr, after.training.psnr, ".1f")
    cards = [{"label": "PSNR, training views", "value": psnr, "unit": "dB", "note": note}]
    if after.held_out is None:
        held_out = {"value": "not measured", "unit": "", "note": "dataset.holdout names views to hold out"}
    else:
        first = old.held_out.psnr if old.held_out else math.nan
        held_out = {"value": _change(first, after.held_out.psnr, ".1f"), "unit": "dB"}
        held_out["note"] = f"mean of {_views(after.held_out.count)} that the training never saw"
    iou = _change(old.training.iou, after.training.iou, ".3f")
    cards.append({"label": "PSNR, held-out views", **held_out})
    note = "overlap of silhouette and mask; 1: equal"
    cards.append({"label": "Mask IoU", "value": iou, "unit": "", "note": note})
    if after.cameras is not None:
        turned = _change(old.cameras[0] if old.cameras else math.nan, after.cameras[0], ".2f")
        moved = _change(old.cameras[1] if old.cameras else math.nan, after.cameras[1], ".3g")
        note = f"mean angle to the given cameras; centers: {moved} world units"
        cards.append({"label": "Cameras", "value": turned, "unit": "degrees", "note": note})
    else:
        faces, note = (f"{after.surface[0]:,}", after.surface[1]) if after.surface else ("none yet", "")
        note = f"watertight: {note}" if note else ""
        cards.append({"label": "Surface", "value": faces, "unit": "faces" if note else "", "note": note})
    return cards


def _views(count: int) -> str:
    return f"{count} view" + "s" * (count != 1)


def _change(before: float, after: float, form: str) -> str:
    """`before → after`, or the latter alone if the former is unknown."""
    texts = [f"{value:{form}}" if math.isfinite(value) else "?" for value in (before, after)]
    return texts[1] if math.isnan(before) else " → ".join(texts)


def plain_words(scores: PageScores) -> list[str]:
    """Returns sentences that say what the numbers mean."""
    words = [
        "PSNR compares the colors of photograph and rendering inside the mask. 6 dB more is half the error; "
        "above about 30 dB, differences are hard to see. Numbers with an arrow lead from the first "
        "checkpoint to the one shown here."
    ]
    if scores.held_out is None:
        words.append(
            "All photographs were used for training, so no number here says how good new views are: the "
            "views of the training look better than others."
        )
        return words
    gap = scores.training.psnr - scores.held_out.psnr
    if gap >= MEMORIZED_DB:
        words.append(
            f"Views that the training never saw score {gap:.1f} dB less than those of the training. Trust "
            "the lower number: it is that of new views. More photographs bring both closer together."
        )
    elif math.isfinite(gap):
        words.append("Views that the training never saw score about the same: colors and shape generalize.")
    return words


def score_table(run: Run, before: PageScores | None, after: PageScores) -> Table:
    """Returns all scores, at the first checkpoint and at the one shown."""
    columns = [after] if before is None else [before, after]
    rows = []
    for name in ("training", "held_out"):
        splits = [getattr(scores, name) for scores in columns]
        last = splits[-1]
        if last is None:
            continue
        which = _views(last.count).replace(" ", f" {name.replace('_', '-')} ")
        which += f", one pixel in {last.step} each way" if last.step > 1 else ""
        rows.append([f"PSNR, {which} (dB)", *(f"{split.psnr:.2f}" for split in splits)])
        rows.append([f"mask IoU, {which}", *(f"{split.iou:.4f}" for split in splits)])
    for k, label in enumerate(("mean rotation error (degrees)", "mean center error (world units)")):
        if after.cameras is not None:
            errors = [f"{scores.cameras[k]:.4g}" if scores.cameras else "-" for scores in columns]
            rows.append([f"cameras: {label}", *errors])
    rows += _focal_rows(run, len(columns))
    return Table(["", "this run"] if before is None else ["", "first checkpoint", "this run"], rows)


def _focal_rows(run: Run, num_columns: int) -> list[list[str]]:
    if run.corrections is None:
        return []
    before, after = (k[:, 0, 0] for k in (given_intrinsics(run.scene), run.training_intrinsics))
    blank = [""] * (num_columns - 1)
    return [
        [f"cameras: focal length {when}, mean (least, greatest), pixels", *blank,
         f"{float(f.mean()):.2f} ({float(f.min()):.2f}, {float(f.max()):.2f})"]
        for when, f in (("given", before), ("trained", after))
    ]  # fmt: skip
