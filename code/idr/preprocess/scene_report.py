"""Writes ``scene_report.html``: the check of a scene on one self-contained page.

B views. The turnable figure is in unit-sphere coordinates, rotated to glTF's axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh
from markupsafe import Markup

from idr.datasets.record import TrueSize
from idr.files import write_text_atomic
from idr.geometry.paths import upright_of_cameras
from idr.meshing.blocks import triangulate
from idr.pictures.page import Table, image_address, render
from idr.pictures.turntable import Body, Lines, frustums, turntable
from idr.preprocess.scene_check import SceneCheck
from idr.preprocess.scene_drawing import HULL_COLOR, MASK_COLOR, SPHERE_COLOR, border_for, draw_small
from idr.preprocess.scene_views import Array
from idr.preprocess.visual_hull import SceneHull

REPORT = "scene_report.html"
MAX_WIDTH, IMAGES_BYTES = 480, 4_000_000
"""Width of a view in pixels, and largest size of all images, base64-encoded: the page is for mail and phones,
at most 6 MB with the hull."""
BYTES_PER_PIXEL = 0.25
"""Of a textured JPEG with `JPEG_QUALITY`, base64-encoded; the first guess."""
JPEG_QUALITY = 85
SMOOTHINGS = 8
"""Iterations of Taubin smoothing, which removes the steps of the grid and keeps the volume."""
CAMERAS, WARNED, SPHERE = "#3f7fd6", "#d03b3b", "#c9a400"
"""Colors of the figure's lines: cameras, those of views with warnings, the unit sphere."""


def write_scene_report(
    check: SceneCheck,
    path: Path,
    title: str,
    more_warnings: Sequence[str] = (),
    true_size: TrueSize | None = None,
) -> tuple[str, ...]:
    """Writes the page: findings, every view, turnable cameras and hull, numbers.

    Args:
        check: The check of the scene.
        path: The page.
        title: Its title.
        more_warnings: Further warnings; those that repeat a finding are left out.
        true_size: How the world's unit was made a meter; None for another unit.

    Returns:
        All warnings about the scene, one sentence each: its findings, then the others.

    Raises:
        OutputError: Writing failed.
    """
    said = tuple(finding.text for finding in check.findings)
    others = [text for text in dict.fromkeys(more_warnings) if not text.startswith(said)]
    colors = (("mask", MASK_COLOR), ("unit sphere", SPHERE_COLOR), ("visual hull", HULL_COLOR))
    hull = None if check.hull is None else hull_mesh(check.hull, check.views.poses[0, :3, :3])
    page = render(
        "scene.html",
        title=title,
        subtitle=f"{len(check.checks)} photographs with masks and cameras, before the training.",
        size="" if true_size is None else _size_words(true_size, hull),
        findings=check.findings,
        warnings=others,
        legend=[(name, "#" + bytes(color).hex()) for name, color in colors],
        views=_views(check),
        space_title="Cameras, unit sphere and " + ("visual hull" if hull else "no hull"),
        space=scene_figure(check, hull),
        facts=_summary(check).as_html(),
        numbers=_views_table(check).as_html(),
    )
    write_text_atomic(path, page)
    return (*map(str, check.findings), *others)


def _size_words(size: TrueSize, hull: trimesh.Trimesh | None) -> str:
    if hull is None:
        return f"The unit of the scene is the meter, by {size.origin}."
    return f"The unit of the scene is the meter. The visual hull measures {size.of_box(hull.vertices)}."


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
    return Table(["", ""], rows)


def scene_figure(check: SceneCheck, hull: trimesh.Trimesh | None) -> Markup:
    """Returns HTML with the turnable cameras, unit sphere and hull, a mesh in the world.

    Cameras of views with warnings have another color.
    """
    poses = check.views.poses.copy()
    poses[:, :3, 3] = (poses[:, :3, 3] - check.center) / check.radius
    turn = upright_of_cameras(poses)
    bodies = []
    if hull is not None:
        vertices = (hull.vertices - check.center) / check.radius
        normals = np.asarray(hull.vertex_normals)
        bodies = [Body("visual hull", vertices @ turn.T, np.asarray(hull.faces), normals @ turn.T)]
    height, width = check.views.masks[0].shape
    edges = frustums(poses, width / height).reshape(len(poses), -1, 2, 3)
    warned = np.array([bool(view.warnings) for view in check.checks])
    circles = _circles()
    lines = [
        Lines("cameras", CAMERAS, edges[~warned].reshape(-1, 2, 3) @ turn.T, True),
        Lines("cameras of views with warnings", WARNED, edges[warned].reshape(-1, 2, 3) @ turn.T, True),
        Lines("unit sphere", SPHERE, np.stack((circles[:, :-1], circles[:, 1:]), 2).reshape(-1, 2, 3), True),
    ]
    return turntable(bodies, lines)


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


def _views(check: SceneCheck) -> list[dict[str, Any]]:
    """Every view with its outlines, as JPEGs whose size depends on their number."""
    border = border_for(check)
    height, width = check.views.masks[0].shape
    shape = (height + 2 * border[0]) / (width + 2 * border[1])
    affordable = math.sqrt(IMAGES_BYTES / (len(check.checks) * BYTES_PER_PIXEL * shape))
    width = max(16, min(MAX_WIDTH, int(affordable)))
    while True:
        images = [_jpeg(check, k, border, width) for k in range(len(check.checks))]
        size = sum(map(len, images))
        if size <= IMAGES_BYTES or width == 16:
            break
        width = max(16, int(0.95 * width * math.sqrt(IMAGES_BYTES / size)))
    return [
        {
            "number": k, "name": check.images[k].name, "image": images[k], "warnings": view.warnings,
            "iou": "" if math.isnan(view.hull_iou) else f", IoU {view.hull_iou:.3f}",
        }
        for k, view in enumerate(check.checks)
    ]  # fmt: skip


def _jpeg(check: SceneCheck, k: int, border: tuple[int, int], width: int) -> str:
    image = cv2.cvtColor(draw_small(check, k, border, width, titled=False), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return image_address(encoded.tobytes())


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
