"""``report.html``, one run on one self-contained page, and the page that compares reconstructions."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import trimesh
from markupsafe import Markup
from numpy.typing import NDArray
from pyhocon import HOCONConverter
from torch import Tensor

from idr.errors import InputError
from idr.evaluation.reconstruction import true_size_of
from idr.evaluation.report.figures import metric_columns, training_curves
from idr.evaluation.report.scores import number_cards, plain_words, score_table, scores_of
from idr.evaluation.report.surface import show_surface, show_surfaces
from idr.evaluation.report.views import (
    DISAGREEMENT,
    ERROR_SCALE,
    ComparedView,
    compare_view,
    error_scale,
    spread,
    to_bytes,
)
from idr.export.surface import Surface
from idr.files import write_text_atomic
from idr.meshing import transform_mesh
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS
from idr.pictures.page import CaptionedImage, Page, Table, image_address, render
from idr.progress_bar import with_progress
from idr.rendering import DEFAULT_CHUNK_PIXELS
from idr.runs import Run
from idr.runs.folders import CHECKPOINTS, RUNCONF, CheckpointFolder

log = logging.getLogger(__name__)

REPORT = "report.html"
"""The page's name in a run's folder."""

MAX_BYTES = 6_000_000
"""Largest page, for mail and phones."""
JPEG_QUALITY = 88


@dataclass(frozen=True)
class ReportOptions:
    """Contents and size of a page.

    Attributes:
        views: Number of training views, spread evenly.
        side: Most pixels along the longer side of their images.
        resolution: Grid samples along the mesh's shortest side.
        chunk_pixels: Pixels rendered at once; bounds memory.
        chunk_points: Points meshed at once; bounds memory.
        supersample: Rays along each side of a pixel at edges of the renderings; 1 for one ray everywhere.
        title: Title of the page; None for the scene's name.
        command: The command that writes the page; empty if there is none.
    """

    views: int = 6
    side: int = 320
    resolution: int = 128
    chunk_pixels: int = DEFAULT_CHUNK_PIXELS
    chunk_points: int = DEFAULT_CHUNK_POINTS
    supersample: int = 2
    title: str | None = None
    command: str = ""

    @property
    def held_out_views(self) -> int:
        """Number of held-out views."""
        return max(1, self.views // 2)


def write_report(run: Run, path: Path, options: ReportOptions) -> None:
    """Writes the page of a run, whose scene is read: surface, scores, views, curves, conf, versions.

    Raises:
        InputError: The scene does not belong to the run, or the page would exceed `MAX_BYTES`.
        OutputError: The file cannot be written.
    """
    log.info("writing the report")
    training, held_out = compare_views(run, options, False), compare_views(run, options, True)
    mesh = run.mesh(options.resolution, options.chunk_points)
    metrics = metric_columns(run.folder / "metrics.csv")
    start = _first_checkpoint(run)
    before = None
    if start is not None:
        fewest = replace(options, supersample=1)
        old_training, old_held_out = (compare_views(start, fewest, held_out) for held_out in (False, True))
        before = scores_of(start, old_training, old_held_out, None)
    scores = scores_of(run, training, held_out, mesh)
    own = run.folder / RUNCONF
    conf = own.read_text(encoding="utf-8") if own.is_file() else HOCONConverter.to_hocon(run.conf)
    text = render(
        "report.html",
        title=options.title or scene_name(run),
        subtitle=f"{'Surface and colors' if run.trained_poses is None else 'Surface, colors and cameras'}, "
        f"reconstructed from {len(run.scene)} photographs; epoch {run.epoch}.",
        size=_size(run, mesh),
        object=show_surface(run, mesh),
        has_surface=mesh is not None,
        numbers=number_cards(before, scores),
        words=plain_words(scores),
        groups=[
            {"title": "Views of the training", "views": list(map(_shown, training))},
            {"title": "Held-out views, which the training never saw", "views": list(map(_shown, held_out))},
        ],
        scale={"colors": error_scale(), "largest": ERROR_SCALE, "disagreement": _css(DISAGREEMENT)},
        diagrams=training_curves(metrics),
        facts=_facts(run, metrics, options).as_html(),
        scores=score_table(run, before, scores).as_html(),
        conf=conf,
        versions=versions_table(run.device).as_html(),
    )
    size = len(text.encode("utf-8"))
    if size > MAX_BYTES:
        raise InputError(
            f"the page would weigh {size / 1e6:.1f} MB, expected at most {MAX_BYTES / 1e6:.0f}: lower "
            f"--resolution ({options.resolution}), --views ({options.views}) or --side ({options.side})"
        )
    write_text_atomic(path, text)


def _size(run: Run, mesh: trimesh.Trimesh | None) -> str:
    """The sides of the tightest box around a mesh in unit-sphere coordinates; empty without a true size."""
    true_size = true_size_of(run)
    if true_size is None or mesh is None:
        return ""
    return true_size.of_box(transform_mesh(mesh, run.world_from_unit).vertices)


def compare_views(run: Run, options: ReportOptions, held_out: bool) -> list[ComparedView]:
    """Renders and scores views of the page, training or held-out ones; none without the latter."""
    dataset = run.held_out if held_out else run.scene
    if dataset is None:
        return []
    compared = []
    number = options.held_out_views if held_out else options.views
    for index in with_progress(spread(len(dataset), number), "views"):
        view = compare_view(
            run, index, options.side, options.chunk_pixels, options.supersample, held_out=held_out
        )
        log.debug("report: view %d, psnr %.2f", view.number, view.psnr)
        compared.append(view)
    return compared


def _first_checkpoint(run: Run) -> Run | None:
    """Returns the run at its first checkpoint; None if the page shows that one."""
    folder = CheckpointFolder(run.folder / CHECKPOINTS)
    first = min(folder.names(), key=folder.position_of)
    return run.at(first) if folder.epoch_of(first) < run.epoch else None


def scene_name(run: Run) -> str:
    """Returns the name of the run's scene: its folder of data, and its scan."""
    parts = [str(run.conf.get("dataset.data_dir", "")) or run.folder.parent.name]
    scan = run.scan_id
    return " ".join(parts if scan is None else [*parts, f"scan {scan}"])


def write_overview(
    path: Path,
    title: str,
    table: Table,
    images: Sequence[Sequence[CaptionedImage]],
    surfaces: dict[str, Surface],
    rotation: NDArray[np.float64],
) -> None:
    """Writes a page of turnable surfaces by name, a table of scores, and rows of images.

    The surfaces are in one frame, which `rotation`, (3, 3), turns to glTF's axes.

    Raises:
        OutputError: The file cannot be written.
    """
    page = Page()
    if surfaces:
        page.add_html(show_surfaces(surfaces, rotation))
    page.add_html(table.as_html() + Markup("<h2>Photographs and renderings</h2>"))
    for row in images:
        page.add_html(Markup("<div>{}</div>").format(Markup("").join(image.as_html() for image in row)))
    write_text_atomic(path, page.as_html(title))


def _shown(view: ComparedView) -> dict[str, Any]:
    psnr = f"{view.psnr:.2f} dB" if math.isfinite(view.psnr) else "equal"
    shown = {"photo": _address(view.photo, ".jpg"), "rendered": _address(view.rendered, ".jpg")}
    error = _address(view.error, ".png")
    return {"number": view.number, "psnr": psnr, "iou": f"{view.iou:.4f}", "error": error, **shown}


def _address(image: Tensor, extension: str) -> str:
    options: dict[str, Any] = {"quality": JPEG_QUALITY} if extension == ".jpg" else {}
    return image_address(iio.imwrite("<bytes>", to_bytes(image), extension=extension, **options))


def _css(color: Sequence[float]) -> str:
    return "#" + bytes(round(255 * channel) for channel in color).hex()


def _facts(run: Run, metrics: dict[str, NDArray[np.float64]], options: ReportOptions) -> Table:
    """Returns date, duration, machine and command."""
    weights = run.folder / CHECKPOINTS / "ModelParameters" / f"{run.checkpoint}.pth"
    rows = [["page written", datetime.now().strftime("%Y-%m-%d %H:%M")]]
    if weights.is_file():
        when = datetime.fromtimestamp(weights.stat().st_mtime)
        rows.append(["checkpoint written", when.strftime("%Y-%m-%d %H:%M")])
    if "minutes" in metrics and np.isfinite(metrics["minutes"]).any():
        rows.append(["training took", f"{np.nanmax(metrics['minutes']):.1f} minutes"])
    height, width = run.img_res
    rows.append(["photographs", f"{len(run.scene)} for training, {width} x {height} pixels"])
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, device {run.device}"
    rows.append(["machine that wrote the page", machine])
    rows += [["command that wrote the page", options.command]] if options.command else []
    return Table(["", ""], [*rows, ["run", str(run.folder)]])


def versions_table(device: torch.device) -> Table:
    """Returns the versions of Python and packages, the system and the device."""
    rows = [["Python", platform.python_version()], ["torch", torch.__version__]]  # with its build
    for name in ("idr-surface", "numpy", "scikit-image", "trimesh"):
        try:
            rows.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            rows.append([name, "run from its folder, not installed"])
    rows += [["system", f"{platform.system()} {platform.machine()}"], ["device", str(device)]]
    return Table(["", "version where this page was made"], rows)
