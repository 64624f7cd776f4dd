"""The numbers of an evaluation: their result lines and their file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from idr.evaluation.camera_error import CameraErrors
from idr.files import write_text_atomic


@dataclass(frozen=True)
class MeshResult:
    """The mesh that was written.

    Attributes:
        path: The file.
        mesh: The mesh, world coordinates, largest component only.
        num_components: Components before the others were dropped.
        dropped_area: Share of the area, 0 to 1, that was in the dropped ones.
    """

    path: Path
    mesh: trimesh.Trimesh
    num_components: int
    dropped_area: float


@dataclass(frozen=True)
class ViewScore:
    """One rendered view against its photograph.

    Attributes:
        number: The image's number in the scene's folder.
        psnr: Masked PSNR in dB.
        iou: Intersection over union of hit and given mask.
        ssim: Masked SSIM, see `masked_ssim`; NaN where it was not measured.
        lpips: See `load_lpips`; NaN likewise.
    """

    number: int
    psnr: float
    iou: float
    ssim: float = math.nan
    lpips: float = math.nan


@dataclass(frozen=True)
class RenderingScores:
    """All rendered views of a split.

    Attributes:
        views: The views.
    """

    views: tuple[ViewScore, ...]

    @property
    def psnr_mean(self) -> float:
        """Mean of the views' PSNR in dB."""
        return float(np.mean([view.psnr for view in self.views]))

    @property
    def psnr_std(self) -> float:
        """Standard deviation (ddof 0) of the views' PSNR in dB; NaN where a view is infinite."""
        values = np.array([view.psnr for view in self.views])
        return float(values.std()) if np.isfinite(values).all() else math.nan

    @property
    def iou_mean(self) -> float:
        """Mean of the views' mask IoU."""
        return float(np.mean([view.iou for view in self.views]))

    @property
    def ssim_mean(self) -> float:
        """Mean of the views' SSIM; NaN where a view has none."""
        return float(np.mean([view.ssim for view in self.views]))

    @property
    def lpips_mean(self) -> float:
        """Mean of the views' LPIPS; NaN where a view has none."""
        return float(np.mean([view.lpips for view in self.views]))

    def lines(self, scan_id: int | None, held_out: bool = False) -> list[str]:
        """Words the result; the published line, which users' scripts read, comes first.

        SSIM and LPIPS have lines where they were measured.

        Args:
            scan_id: Scan in the lines; None stands as 0, the folder that is then read.
            held_out: Mark the lines as those of views never trained on.
        """
        scan = 0 if scan_id is None else scan_id
        mark = "HELD-OUT " if held_out else ""
        worst = min(self.views, key=lambda view: view.iou)
        lines = [
            f"RENDERING EVALUATION {mark}{scan}: psnr mean = {self.psnr_mean:.2f} ; "
            f"psnr std = {self.psnr_std:.2f}",
            f"MASK EVALUATION {mark}{scan}: iou mean = {self.iou_mean:.4f} ; "
            f"iou min = {worst.iou:.4f} (image {worst.number})",
        ]
        if math.isfinite(self.ssim_mean):
            least = min(self.views, key=lambda view: view.ssim)
            lines.append(
                f"SSIM EVALUATION {mark}{scan}: ssim mean = {self.ssim_mean:.4f} ; "
                f"ssim min = {least.ssim:.4f} (image {least.number})"
            )
        if math.isfinite(self.lpips_mean):
            most = max(self.views, key=lambda view: view.lpips)
            lines.append(
                f"LPIPS EVALUATION {mark}{scan}: lpips mean = {self.lpips_mean:.4f} ; "
                f"lpips max = {most.lpips:.4f} (image {most.number})"
            )
        return lines


def results_record(
    surface: MeshResult | None, cameras: CameraErrors | None, renderings: dict[str, RenderingScores]
) -> dict[str, Any]:
    """Collects all numbers as plain values; what JSON cannot hold (infinite, NaN) becomes None."""
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
        record["cameras"] = {
            "rotation_degrees": [float(error) for error in cameras.rotation_degrees],
            "translation": [float(error) for error in cameras.translation],
            "rotation_degrees_mean": float(np.mean(cameras.rotation_degrees)),
            "rotation_degrees_median": float(np.median(cameras.rotation_degrees)),
            "translation_mean": float(np.mean(cameras.translation)),
            "translation_median": float(np.median(cameras.translation)),
        }
    for name, scores in renderings.items():
        record[name] = {
            "psnr_mean": _finite(scores.psnr_mean),
            "psnr_std": _finite(scores.psnr_std),
            "iou_mean": scores.iou_mean,
            "ssim_mean": _finite(scores.ssim_mean),
            "lpips_mean": _finite(scores.lpips_mean),
            "views": [
                {
                    "image": view.number,
                    "psnr": _finite(view.psnr),
                    "iou": view.iou,
                    "ssim": _finite(view.ssim),
                    "lpips": _finite(view.lpips),
                }
                for view in scores.views
            ],
        }
    return record


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_results(record: dict[str, Any], folder: Path) -> Path:
    """Writes ``results.json``, whole or not at all, and returns its path."""
    path = folder / "results.json"
    write_text_atomic(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return path
