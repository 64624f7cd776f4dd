"""Scores of an evaluation, their result lines and their file ``results.json``."""

from __future__ import annotations

import json
import math
import operator
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from torch import Tensor

from idr.errors import InputError
from idr.evaluation.camera_error import CameraErrors
from idr.files import read_json, write_text_atomic

RESULTS = "results.json"


@dataclass(frozen=True)
class MeshResult:
    """The mesh that was written: the largest component of the surface, in world coordinates.

    Attributes:
        num_components: Components of the whole surface.
        dropped_area: Fraction of the area in the other components, 0 to 1.
    """

    path: Path
    mesh: trimesh.Trimesh
    num_components: int
    dropped_area: float


@dataclass(frozen=True)
class PointScores:
    """Distances from points on the true surface to a mesh, in the unit of their frame.

    The first three are of all points, the last three of those that training did not use.
    """

    num_points: int
    median: float
    percentile_90: float
    num_held_out: int
    median_held_out: float
    percentile_90_held_out: float

    def line(self) -> str:
        """Returns the scores as a line of text."""
        return (
            f"median = {self.median:.4g} ; 90 % = {self.percentile_90:.4g} ({self.num_points} points) ; held "
            f"out: median = {self.median_held_out:.4g} ; 90 % = {self.percentile_90_held_out:.4g} "
            f"({self.num_held_out})"
        )


@dataclass(frozen=True)
class ViewScore:
    """Scores of one rendered view against its photograph; ``number`` is the image's position in its folder.

    See `masked_psnr` (dB), `mask_iou`, `masked_ssim` and `load_lpips`; the last two are NaN if not measured.
    """

    number: int
    psnr: float
    iou: float
    ssim: float = math.nan
    lpips: float = math.nan


@dataclass(frozen=True)
class RenderingScores:
    """Scores of all rendered views of a split.

    ``exposure`` says how the exposures of the renderings were found, ``learned`` or ``fitted``; None for the
    scene's own colors.
    """

    views: tuple[ViewScore, ...]
    exposure: str | None = None

    @property
    def psnr_mean(self) -> float:
        """Mean of the views' PSNR in dB."""
        return self.mean("psnr")

    @property
    def psnr_std(self) -> float:
        """Standard deviation (ddof 0) of the views' PSNR in dB; NaN if a view's is infinite."""
        values = np.array([view.psnr for view in self.views])
        return float(values.std()) if np.isfinite(values).all() else math.nan

    @property
    def iou_mean(self) -> float:
        """Mean of the views' mask IoU."""
        return self.mean("iou")

    def mean(self, score: str) -> float:
        """Returns the mean of a score of `ViewScore`; NaN if a view has none."""
        return float(np.mean([getattr(view, score) for view in self.views]))

    def lines(self, scan_id: int | None, held_out: bool = False) -> list[str]:
        """Returns the result lines, first the published one, which users' scripts parse.

        A `scan_id` of None is written as 0, the folder that is then read. `held_out` marks the lines.
        """
        where = f"{'HELD-OUT ' if held_out else ''}{0 if scan_id is None else scan_id}"
        scores = f"psnr mean = {self.psnr_mean:.2f} ; psnr std = {self.psnr_std:.2f}"
        corrected = "" if self.exposure is None else f" ; exposure {self.exposure} per view"
        lines = [f"RENDERING EVALUATION {where}: {scores}{corrected}"]
        for title, name, worst in (("MASK", "iou", min), ("SSIM", "ssim", min), ("LPIPS", "lpips", max)):
            if name == "iou" or math.isfinite(self.mean(name)):
                view = worst(self.views, key=operator.attrgetter(name))
                lines.append(
                    f"{title} EVALUATION {where}: {name} mean = {self.mean(name):.4f} ; {name} "
                    f"{worst.__name__} = {getattr(view, name):.4f} (image {view.number})"
                )
        return lines


def results_record(
    surface: MeshResult | None, cameras: CameraErrors | None, renderings: dict[str, RenderingScores]
) -> dict[str, Any]:
    """Returns all scores as plain values; infinite and NaN values, which JSON lacks, become None."""
    record: dict[str, Any] = {}
    if surface is not None:
        record["surface"] = {
            "file": surface.path.name,
            "vertices": len(surface.mesh.vertices),
            "faces": len(surface.mesh.faces),
            "watertight": bool(surface.mesh.is_watertight),
            "area": float(surface.mesh.area),
            "components_before_filter": surface.num_components,
            "dropped_area_share": surface.dropped_area,
        }
    if cameras is not None:
        errors = asdict(cameras)
        record["cameras"] = {name: values.tolist() for name, values in errors.items()}
        for name, values in errors.items():
            record["cameras"][f"{name}_mean"] = float(np.mean(values))
            record["cameras"][f"{name}_median"] = float(np.median(values))
    for name, scores in renderings.items():
        entry: dict[str, Any] = {"psnr_mean": _finite(scores.psnr_mean), "psnr_std": _finite(scores.psnr_std)}
        entry |= {f"{score}_mean": _finite(scores.mean(score)) for score in ("iou", "ssim", "lpips")}
        if scores.exposure is not None:
            entry["exposure"] = f"{scores.exposure} per view"
        entry["views"] = [
            {"image": view.number}
            | {score: _finite(getattr(view, score)) for score in ("psnr", "iou", "ssim", "lpips")}
            for view in scores.views
        ]
        record[name] = entry
    return record


def focal_line(given: Tensor, trained: Tensor) -> str:
    """Returns the result line on trained intrinsics; given and trained K are (B, 4, 4)."""
    factor = trained[:, 0, 0] / given[:, 0, 0]
    shift = (trained[:, :2, 2] - given[:, :2, 2]).norm(dim=1)
    return (
        f"INTRINSICS: focal length given = {float(given[:, 0, 0].mean()):.2f} ; trained = "
        f"{float(trained[:, 0, 0].mean()):.2f} ; factor mean = {float(factor.mean()):.4f} ; "
        f"principal point moved mean = {float(shift.mean()):.2f} pixels"
    )


def is_own_scores(path: Path) -> bool:
    """Whether a file holds scores of ``eval_mesh.py``."""
    try:
        return {"protocol", "mesh", "seed", "accuracy"} <= set(read_json(path))
    except (OSError, ValueError, TypeError):
        return False


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def earlier_results(folder: Path, run: Path) -> dict[str, Any]:
    """Returns the content of ``results.json`` in a folder of results, empty without one.

    Raises:
        InputError: It belongs to a run of another name or folder, or is not ours.
    """
    path = folder / RESULTS
    remedy = "give this run's a place of their own with --evals_folder, or move them away"
    if not os.path.lexists(path):
        return {}
    try:
        record = read_json(path)
        owner = Path(record["run"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no results file of eval.py ({error!r}): {remedy}") from error
    if owner.parent.resolve() != run.parent.resolve() and owner.is_dir():
        raise InputError(f"{folder} holds the results of another run, {owner}: {remedy}")
    return dict(record)


def write_results(record: dict[str, Any], folder: Path, before: dict[str, Any] | None = None) -> Path:
    """Writes ``results.json`` atomically and returns its path.

    If `before`, from `earlier_results`, is of another run, that run's pictures are removed.
    """
    path = folder / RESULTS
    write_text_atomic(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    if before and before.get("run") != record.get("run"):
        for name in _pictures(before) - _pictures(record):
            (folder / name).unlink(missing_ok=True)
    return path


def _pictures(record: dict[str, Any]) -> set[str]:
    """Returns the files of the renderings that a record lists, relative to its folder."""
    kinds = (("rendering", "eval"), ("rendering_held_out", "heldout"))
    try:
        return {
            f"rendering/{stem}_{int(view['image']):03d}.png"
            for key, stem in kinds
            for view in record.get(key, {"views": ()})["views"]
        }
    except (ValueError, TypeError, KeyError, OverflowError):  # not as we wrote it
        return set()
