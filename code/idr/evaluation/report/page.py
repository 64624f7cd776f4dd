"""``report.html``, one run on one self-contained page, and the page that compares reconstructions."""

from __future__ import annotations

import html
import importlib.metadata
import logging
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch
import trimesh
from pyhocon import HOCONConverter

from idr.errors import InputError
from idr.evaluation.camera_error import CameraErrors
from idr.evaluation.reconstruction import measure_cameras
from idr.evaluation.report import figures
from idr.evaluation.report.views import ComparedView, compare_view, spread, to_bytes
from idr.files import write_text_atomic
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS
from idr.pictures.page import CaptionedImage, Page, Table
from idr.pictures.space import mesh_trace, space_figure
from idr.progress_bar import with_progress
from idr.rendering import DEFAULT_CHUNK_PIXELS
from idr.runs import Run
from idr.runs.folders import RUNCONF
from idr.runs.views import given_intrinsics

log = logging.getLogger(__name__)

REPORT = "report.html"
"""The page's name in a run's folder."""

MAX_BYTES = 15_000_000
"""Largest page, for mail and phones. plotly's script alone is a third of it."""


@dataclass(frozen=True)
class ReportOptions:
    """Size of a page.

    Attributes:
        views: Number of training views, spread evenly.
        side: Most pixels along the longer side of their images.
        resolution: Grid samples along the mesh's shortest side.
        chunk_pixels: Pixels rendered at once; bounds memory.
        chunk_points: Points meshed at once; bounds memory.
        supersample: Rays along each side of a pixel at edges of the renderings; 1 for one ray everywhere.
    """

    views: int = 6
    side: int = 320
    resolution: int = 96
    chunk_pixels: int = DEFAULT_CHUNK_PIXELS
    chunk_points: int = DEFAULT_CHUNK_POINTS
    supersample: int = 2


def write_report(run: Run, path: Path, options: ReportOptions) -> None:
    """Writes the page of a run, whose scene is read: curves, views, surface, cameras, conf, versions.

    Raises:
        InputError: The scene does not belong to the run, or the page would exceed 15 MB.
        OutputError: The file cannot be written.
    """
    compared = []
    for index in with_progress(spread(len(run.scene), options.views), "views"):
        compared.append(compare_view(run, index, options.side, options.chunk_pixels, options.supersample))
        log.info("report: view %d, psnr %.2f", compared[-1].number, compared[-1].psnr)
    mesh = run.mesh(options.resolution, options.chunk_points)
    cameras = measure_cameras(run) if run.alignment is not None else None
    page = Page()
    page.add_html(_summary(run, compared, cameras, mesh).as_html())
    curves = figures.curves_figure(figures.metric_columns(run.folder / "metrics.csv"))
    page.add_figure("Training", curves, "The run holds no metrics.csv: no curves.")
    page.add_html(_views_html(compared))
    surface = "Surface and cameras" if mesh is not None else "Cameras (there is no surface yet)"
    page.add_figure(surface, figures.surface_with_cameras(run, mesh))
    if cameras is not None:
        paths = figures.camera_paths(run)
        figure = None if paths is None else figures.paths_figure(run, paths)
        no_paths = "Fewer than two checkpoints hold cameras: nothing to compare."
        page.add_figure("Where the cameras went", figure, no_paths)
    own = run.folder / RUNCONF
    conf = own.read_text(encoding="utf-8") if own.is_file() else HOCONConverter.to_hocon(run.conf)
    page.add_html(f"<h2>Conf</h2><pre>{html.escape(conf)}</pre><h2>Versions</h2>")
    page.add_html(versions_table(run.device).as_html())
    text = page.as_html(f"{run.folder.parent.name}, epoch {run.epoch}")
    size = len(text.encode("utf-8"))
    if size > MAX_BYTES:
        raise InputError(
            f"the page would weigh {size / 1e6:.1f} MB, expected at most {MAX_BYTES / 1e6:.0f}: lower "
            f"--resolution ({options.resolution}), --views ({options.views}) or --side ({options.side})"
        )
    write_text_atomic(path, text)


def write_overview(
    path: Path,
    title: str,
    table: Table,
    images: Sequence[Sequence[CaptionedImage]],
    surfaces: dict[str, trimesh.Trimesh],
) -> None:
    """Writes a page of a table of scores, rows of images, and meshes by caption, all in one frame.

    Raises:
        OutputError: The file cannot be written.
    """
    page = Page()
    page.add_html(f"{table.as_html()}<h2>Photographs and renderings</h2>{''.join(map(_row_html, images))}")
    for caption, mesh in surfaces.items():
        page.add_figure(caption, space_figure([mesh_trace(mesh)]))
    write_text_atomic(path, page.as_html(title))


def _summary(run: Run, views: Sequence[ComparedView], cameras: CameraErrors | None, mesh: Any) -> Table:
    rows = [["run", str(run.folder)], ["epoch", str(run.epoch)]]
    if views:
        step = views[0].step
        which = f"{len(views)} training views" + (f", one pixel in {step} each way" if step > 1 else "")
        psnr = [view.psnr for view in views if math.isfinite(view.psnr)]
        if psnr:
            rows.append([f"PSNR, {which} (dB)", f"{sum(psnr) / len(psnr):.2f}"])
        rows.append([f"mask IoU, {which}", f"{sum(v.iou for v in views) / len(views):.4f}"])
    rows.append(["surface", "none yet" if mesh is None else f"{len(mesh.faces):,} faces"])
    if cameras is not None:
        rows.append(["cameras: mean rotation error (degrees)", f"{cameras.rotation_degrees.mean():.2f}"])
        rows.append(["cameras: mean center error (world units)", f"{cameras.translation.mean():.2f}"])
        rows += _focal_rows(run)
    return Table(["", "this run"], rows)


def _focal_rows(run: Run) -> list[list[str]]:
    if run.corrections is None:
        return []
    before, after = (k[:, 0, 0] for k in (given_intrinsics(run.scene), run.training_intrinsics))
    return [
        [f"cameras: focal length {when}, mean (least, greatest), pixels",
         f"{float(f.mean()):.2f} ({float(f.min()):.2f}, {float(f.max()):.2f})"]
        for when, f in (("given", before), ("trained", after))
    ]  # fmt: skip


def _views_html(compared: Sequence[ComparedView]) -> str:
    rows = []
    for view in compared:
        shown = {
            f"photograph, view {view.number}": view.photo,
            f"rendering, {view.psnr:.2f} dB": view.rendered,
            f"error, mask IoU {view.iou:.4f}": view.error,
        }
        encoded = (iio.imwrite("<bytes>", to_bytes(image), extension=".png") for image in shown.values())
        rows.append(_row_html([CaptionedImage(*pair) for pair in zip(encoded, shown, strict=True)]))
    legend = (
        "Errors: black where equal, yellow from a mean difference of 0.5 on (colors from 0 to 1), blue "
        "where silhouette and mask disagree. Errors and scores are those of one ray per pixel shown."
    )
    return f"<h2>Photographs, renderings, errors</h2><p>{legend}</p>{''.join(rows)}"


def _row_html(images: Sequence[CaptionedImage]) -> str:
    return f"<div>{''.join(image.as_html() for image in images)}</div>"


def versions_table(device: torch.device) -> Table:
    """Returns the versions of Python and packages, the system and the device."""
    rows = [["Python", platform.python_version()], ["torch", torch.__version__]]  # with its build
    for name in ("idr-surface", "numpy", "scikit-image", "trimesh", "plotly"):
        try:
            rows.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            rows.append([name, "run from its folder, not installed"])
    rows += [["system", f"{platform.system()} {platform.machine()}"], ["device", str(device)]]
    return Table(["", "version where this page was made"], rows)
