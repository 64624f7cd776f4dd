"""``scene_report.html``: a scene on one page that opens without network, before anyone trains on it.

B views, H rows, W columns, N samples of the hull. Figures in space are in unit-sphere coordinates.
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
from numpy.typing import NDArray

from idr.failures import Finding
from idr.files import write_text_atomic
from idr.meshing.marching import triangulate
from idr.pictures.page import CaptionedImage, Page, Table
from idr.pictures.space import camera_traces, mesh_trace, polyline, space_figure
from idr.preprocess.doctor import diagnose_views
from idr.preprocess.scene_check import SceneCheck, ViewCheck
from idr.preprocess.scene_drawing import LEGEND, border_for, draw_small
from idr.preprocess.visual_hull import SceneHull

REPORT = "scene_report.html"
WIDEST, PICTURES_BYTES = 480, 6_000_000
"""Pixels of a view's width, and what all pictures together may weigh about: a page should stay a mail."""
BYTES_A_PIXEL = 0.25
"""Of a JPEG of this quality, base64 and all; photographs with much texture need about as much."""
JPEG_QUALITY = 85
SMOOTHINGS = 8
"""Steps of Taubin's smoothing, which takes the cells' stairs away and keeps the volume."""
CAMERA_COLOR, DOUBTED_COLOR, SPHERE_COLOR = "#2266cc", "#d03b3b", "#c9a400"


def write_scene_report(
    check: SceneCheck, path: Path, title: str, known: Sequence[str] = ()
) -> tuple[str, ...]:
    """Writes the page: what to look at, counts and scale, cameras and hull to turn about, every view.

    Args:
        check: What `check_scene` returned.
        path: The file.
        title: Its heading.
        known: What is to be looked at for reasons that the check does not know, a sentence each.

    Returns:
        What to look at, a sentence each: named failures, what was known, the check's warnings. Views that do
        not fit are named on the page.

    Raises:
        OutputError: It cannot be written.
    """
    doubts = tuple(dict.fromkeys((*map(str, _findings(check)), *known, *check.warnings)))
    page = Page()
    page.add_html(_doubts_html(check, doubts))
    page.add_html(f"<h2>The scene</h2>{_summary(check).as_html()}")
    hull = "Cameras, unit sphere and visual hull" if check.hull else "Cameras and unit sphere (no hull)"
    page.add_figure(hull, scene_figure(check))
    page.add_html(_views_html(check))
    page.add_html(f"<h2>Figures of the views</h2>{_views_table(check).as_html()}")
    write_text_atomic(path, page.as_html(title))
    return doubts


def _findings(check: SceneCheck) -> tuple[Finding, ...]:
    scale_mat = np.diag([check.radius, check.radius, check.radius, 1.0])
    scale_mat[:3, 3] = check.center
    ious = [view.hull_iou for view in check.checks]
    return diagnose_views(check.views, scale_mat, float(np.mean(ious)) if check.hull else 0.0)


def _doubts_html(check: SceneCheck, of_the_scene: Sequence[str]) -> str:
    """The list of what to look at, the scene as a whole first."""
    doubts = [
        *of_the_scene,
        *(
            f"view {k}, {check.images[k].name}: {', '.join(view.warnings)}"
            for k, view in enumerate(check.checks)
            if view.warnings
        ),
    ]
    if not doubts:
        return "<h2>To look at</h2><p>Nothing: masks, cameras and unit sphere fit together.</p>"
    return f"<h2>To look at</h2><ul>{''.join(f'<li>{html.escape(doubt)}</li>' for doubt in doubts)}</ul>"


def _summary(check: SceneCheck) -> Table:
    sizes = sorted({f"{mask.shape[1]} x {mask.shape[0]}" for mask in check.views.masks})
    distances = [view.distance for view in check.checks]
    rows = [
        ["views", str(len(check.checks))],
        ["views to look at", str(sum(bool(view.warnings) for view in check.checks))],
        ["image size (pixels)", ", ".join(sizes)],
        ["share of an image inside its mask, mean", f"{np.mean([m.mean() for m in check.views.masks]):.1%}"],
        ["unit sphere: center in the world", ", ".join(f"{value:.6g}" for value in check.center)],
        ["unit sphere: radius in world units (scale)", f"{check.radius:.6g}"],
        ["a pixel at the sphere's center, mean (world units)", f"{_pixel_at_center(check):.3g}"],
        ["cameras: distance in radii, least and greatest", f"{min(distances):.2f}, {max(distances):.2f}"],
        ["masks reach, of the radius, at most", f"{max(v.outline_radius for v in check.checks):.3f}"],
    ]
    if check.hull is not None:
        ious = [view.hull_iou for view in check.checks]
        rows.append(["IoU of hull and mask, mean", f"{np.mean(ious):.3f}"])
        rows.append(["IoU of hull and mask, worst view", f"{min(ious):.3f} (view {int(np.argmin(ious))})"])
    return Table(["", "this scene"], rows)


def _pixel_at_center(check: SceneCheck) -> float:
    """Mean side of a pixel at the depth of the sphere's center, world units."""
    depths = ((check.center - check.views.centers) * check.views.poses[:, :3, 2]).sum(axis=1)
    return float((depths / check.views.intrinsics[:, 0, 0]).mean())


def scene_figure(check: SceneCheck) -> Any:
    """Draws cameras, unit sphere and visual hull in unit-sphere coordinates.

    Args:
        check: What `check_scene` returned.

    Returns:
        A plotly figure; cameras of views with warnings have a color of their own.
    """
    import plotly.graph_objects as go

    poses = check.views.poses.copy()
    poses[:, :3, 3] = (poses[:, :3, 3] - check.center) / check.radius
    traces = []
    if check.hull is not None:
        mesh = hull_mesh(check.hull, check.views.poses[0, :3, :3])
        mesh.vertices = (mesh.vertices - check.center) / check.radius
        traces.append(mesh_trace(mesh))
    texts = [f"view {k}, {path.name}" for k, path in enumerate(check.images)]
    doubted = np.array([bool(view.warnings) for view in check.checks])
    for chosen, name, color in (
        (~doubted, "cameras", CAMERA_COLOR),
        (doubted, "cameras of views to look at", DOUBTED_COLOR),
    ):
        if chosen.any():
            traces += camera_traces(poses[chosen], [texts[k] for k in np.flatnonzero(chosen)], name, color)
    x, y, z = polyline(_circles())
    line = {"color": SPHERE_COLOR, "width": 2}
    traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, name="unit sphere", hoverinfo="name"))
    return space_figure(traces, poses)


def _circles(num_points: int = 73) -> NDArray[np.float64]:
    """(3, num_points, 3): the unit sphere's circles in the planes of two axes."""
    turn = np.linspace(0.0, 2.0 * np.pi, num_points)
    around = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(num_points)])
    return np.stack([around, np.roll(around, 1, axis=1), np.roll(around, 2, axis=1)])


def hull_mesh(hull: SceneHull, axes: NDArray[np.float64]) -> trimesh.Trimesh:
    """Puts a surface around the hull's samples: each fills a cell of the grid that they were taken from.

    Args:
        hull: The hull, at least one sample.
        axes: (3, 3) the grid's axes in the world as columns: those of the first camera.

    Returns:
        The surface in the world, smoothed a little, closed.
    """
    local = hull.points @ axes
    low = local.min(axis=0)
    cells = np.round((local - low) / hull.spacing).astype(np.int64)
    volume = np.ones(cells.max(axis=0) + 3, np.float32)  # an empty layer around
    volume[tuple((cells + 1).T)] = -1.0
    vertices, faces = triangulate(volume)
    mesh = trimesh.Trimesh(((vertices - 1.0) * hull.spacing + low) @ axes.T, faces, process=False)
    return trimesh.smoothing.filter_taubin(mesh, iterations=SMOOTHINGS)


def _views_html(check: SceneCheck) -> str:
    """Every view with its outlines, as JPEGs that shrink where there are many."""
    border = border_for(check)
    height, width = check.views.masks[0].shape
    shape = (height + 2 * border[0]) / (width + 2 * border[1])
    affordable = math.sqrt(PICTURES_BYTES / (len(check.checks) * BYTES_A_PIXEL * shape))
    width = max(16, min(WIDEST, int(affordable)))
    figures = []
    for k, view in enumerate(check.checks):
        picture = cv2.cvtColor(draw_small(check, k, border, width), cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        figures.append(CaptionedImage(jpeg, _caption(k, check.images[k].name, view)).as_html())
    return f"<h2>Views</h2><p>{html.escape(LEGEND)}</p><div>{''.join(figures)}</div>"


def _caption(k: int, name: str, view: ViewCheck) -> str:
    iou = "" if math.isnan(view.hull_iou) else f", IoU {view.hull_iou:.3f}"
    return f"view {k}, {name}{iou}" + "".join(f"; {warning}" for warning in view.warnings)


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
    header = ["view", "IoU of hull and mask", "mask reaches (of radius)", "camera at (radii)", "to look at"]
    return Table(header, rows)
