"""Writes ``scene_report.html``: the check of a scene on one self-contained page.

The 3D figure is in unit-sphere coordinates.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh

from idr.failures import Finding
from idr.files import write_text_atomic
from idr.meshing.blocks import triangulate
from idr.pictures.page import CaptionedImage, Page, Table
from idr.pictures.space import camera_traces, mesh_trace, polyline, space_figure
from idr.preprocess.scene_check import SceneCheck
from idr.preprocess.scene_drawing import LEGEND, border_for, draw_small
from idr.preprocess.scene_views import Array
from idr.preprocess.visual_hull import SceneHull

REPORT = "scene_report.html"
MAX_WIDTH, IMAGES_BYTES = 480, 6_000_000
"""Width of a view in pixels, and approximate size of all images: the page should fit into a mail."""
BYTES_PER_PIXEL = 0.25
"""Of a textured JPEG with `JPEG_QUALITY`, base64-encoded."""
JPEG_QUALITY = 85
SMOOTHINGS = 8
"""Iterations of Taubin smoothing, which removes the steps of the grid and keeps the volume."""
CAMERA_COLOR, WARNING_COLOR, SPHERE_COLOR = "#2266cc", "#d03b3b", "#c9a400"


def write_scene_report(
    check: SceneCheck, path: Path, title: str, more_warnings: Sequence[str] = ()
) -> tuple[str, ...]:
    """Writes the page: findings, summary, 3D figure of cameras and hull, and every view.

    Returns:
        All warnings about the scene, one sentence each: its findings, then those of `more_warnings` that
        repeat none.

    Raises:
        OutputError: Writing failed.
    """
    said = tuple(finding.text for finding in check.findings)
    others = [text for text in dict.fromkeys(more_warnings) if not text.startswith(said)]
    page = Page()
    page.add_html(_findings_html(check.findings, others))
    page.add_html(f"<h2>The scene</h2>{_summary(check).as_html()}")
    hull = "Cameras, unit sphere and visual hull" if check.hull else "Cameras and unit sphere (no hull)"
    page.add_figure(hull, scene_figure(check))
    page.add_html(_views_html(check))
    page.add_html(f"<h2>Numbers of the views</h2>{_views_table(check).as_html()}")
    write_text_atomic(path, page.as_html(title))
    return (*map(str, check.findings), *others)


def _findings_html(findings: Sequence[Finding], more_warnings: Sequence[str]) -> str:
    """The list of findings, each with what to do, severe ones first, and of other warnings."""
    items = []
    for finding in findings:
        remedy = f" <b>What to do:</b> {html.escape(finding.remedy)}." if finding.remedy else ""
        weight = "must be mended" if finding.is_severe else "limits the result"
        items.append(f"<b>{finding.name}</b> ({weight}): {html.escape(finding.text)}.{remedy}")
    items += [html.escape(text) for text in more_warnings]
    if not items:
        return "<h2>Findings</h2><p>None: masks, cameras and unit sphere are consistent.</p>"
    return f"<h2>Findings</h2><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _summary(check: SceneCheck) -> Table:
    sizes = sorted({f"{mask.shape[1]} x {mask.shape[0]}" for mask in check.views.masks})
    distances = [view.distance for view in check.checks]
    depths = ((check.center - check.views.centers) * check.views.poses[:, :3, 2]).sum(axis=1)
    pixel = float((depths / check.views.intrinsics[:, 0, 0]).mean())
    rows = [
        ["views", str(len(check.checks))],
        ["views with warnings", str(sum(bool(view.warnings) for view in check.checks))],
        ["image size (pixels)", ", ".join(sizes)],
        ["share of an image inside its mask, mean", f"{np.mean([m.mean() for m in check.views.masks]):.1%}"],
        ["unit sphere: center in the world", ", ".join(f"{value:.6g}" for value in check.center)],
        ["unit sphere: radius in world units (scale)", f"{check.radius:.6g}"],
        ["pixel size at the sphere's center, mean (world units)", f"{pixel:.3g}"],
        ["cameras: smallest and largest distance (radii)", f"{min(distances):.2f}, {max(distances):.2f}"],
        ["largest extent of a mask (radii)", f"{max(v.outline_radius for v in check.checks):.3f}"],
    ]
    if check.hull is not None:
        ious = [view.hull_iou for view in check.checks]
        rows.append(["IoU of hull and mask, mean", f"{np.mean(ious):.3f}"])
        rows.append(["IoU of hull and mask, worst view", f"{min(ious):.3f} (view {int(np.argmin(ious))})"])
    return Table(["", "this scene"], rows)


def scene_figure(check: SceneCheck) -> Any:
    """Returns a plotly figure of cameras, unit sphere and visual hull in unit-sphere coordinates.

    Cameras of views with warnings have another color.
    """
    import plotly.graph_objects as go

    poses = check.views.poses.copy()
    poses[:, :3, 3] = (poses[:, :3, 3] - check.center) / check.radius
    traces = []
    if check.hull is not None:
        mesh = hull_mesh(check.hull, check.views.poses[0, :3, :3])
        mesh.vertices = (mesh.vertices - check.center) / check.radius
        traces.append(mesh_trace(mesh))
    for warned, name, color in (
        (False, "cameras", CAMERA_COLOR), (True, "cameras of views with warnings", WARNING_COLOR),
    ):  # fmt: skip
        chosen = [k for k, view in enumerate(check.checks) if bool(view.warnings) == warned]
        if chosen:
            texts = [f"view {k}, {check.images[k].name}" for k in chosen]
            traces += camera_traces(poses[chosen], texts, name, color)
    x, y, z = polyline(_circles())
    line = {"color": SPHERE_COLOR, "width": 2}
    traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, name="unit sphere", hoverinfo="name"))
    return space_figure(traces, poses)


def _circles(num_points: int = 73) -> Array:
    """(3, num_points, 3): the unit sphere's circles in the planes of two axes."""
    turn = np.linspace(0.0, 2.0 * np.pi, num_points)
    around = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(num_points)])
    return np.stack([around, np.roll(around, 1, axis=1), np.roll(around, 2, axis=1)])


def hull_mesh(hull: SceneHull, axes: Array) -> trimesh.Trimesh:
    """Meshes the hull's samples, each of which fills a cell of its grid.

    The columns of `axes`, (3, 3), are the grid's axes in the world: those of the first camera. The surface is
    closed, in the world, and slightly smoothed.
    """
    local = hull.points @ axes
    low = local.min(axis=0)
    cells = np.round((local - low) / hull.spacing).astype(np.int64)
    volume = np.ones(cells.max(axis=0) + 3, np.float32)  # with an empty border
    volume[tuple((cells + 1).T)] = -1.0
    vertices, faces = triangulate(volume)
    mesh = trimesh.Trimesh(((vertices - 1.0) * hull.spacing + low) @ axes.T, faces, process=False)
    return trimesh.smoothing.filter_taubin(mesh, iterations=SMOOTHINGS)


def _views_html(check: SceneCheck) -> str:
    """Every view with its outlines, as JPEGs whose size depends on their number."""
    border = border_for(check)
    height, width = check.views.masks[0].shape
    shape = (height + 2 * border[0]) / (width + 2 * border[1])
    affordable = math.sqrt(IMAGES_BYTES / (len(check.checks) * BYTES_PER_PIXEL * shape))
    width = max(16, min(MAX_WIDTH, int(affordable)))
    figures = []
    for k, view in enumerate(check.checks):
        image = cv2.cvtColor(draw_small(check, k, border, width), cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        iou = "" if math.isnan(view.hull_iou) else f", IoU {view.hull_iou:.3f}"
        caption = f"view {k}, {check.images[k].name}{iou}" + "".join(f"; {text}" for text in view.warnings)
        figures.append(CaptionedImage(jpeg, caption).as_html())
    return f"<h2>Views</h2><p>{html.escape(LEGEND)}</p><div>{''.join(figures)}</div>"


def _views_table(check: SceneCheck) -> Table:
    rows = [
        [
            f"{k}: {check.images[k].name}",
            "-" if math.isnan(view.hull_iou) else f"{view.hull_iou:.3f}",
            f"{view.outline_radius:.3f}",
            f"{view.distance:.2f}",
            "; ".join(view.warnings) or "-",
        ]
        for k, view in enumerate(check.checks)
    ]
    header = ["view", "IoU of hull and mask", "mask extent (radii)", "camera distance (radii)", "warnings"]
    return Table(header, rows)
