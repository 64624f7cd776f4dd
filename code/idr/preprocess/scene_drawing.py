"""Draws outlines of mask, sphere and hull over each photograph, singly and on a contact sheet.

H rows, W columns.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.datasets.images import load_rgb
from idr.files import write_atomic
from idr.preprocess.outlines import hull_silhouette, sphere_outline
from idr.preprocess.scene_check import SceneCheck

Image: TypeAlias = NDArray[Any]  # (H, W, 3) uint8 RGB; cv2's stubs have no dtype

MASK_COLOR, SPHERE_COLOR, HULL_COLOR = (64, 220, 64), (255, 210, 0), (255, 40, 200)  # RGB
BACKGROUND, TEXT_COLOR, ALARM_COLOR = (32, 32, 32), (255, 255, 255), (255, 90, 80)
LEGEND = "green: mask   yellow: unit sphere   magenta: visual hull"
MAX_BORDER = 0.75
"""Largest border that is added to show a sphere beyond the image, over the image's side."""
CELL_WIDTH, LARGEST_SHEET = 480, 4000
"""Pixels: width of a view on the contact sheet, and largest width of the sheet."""


def draw_scene(check: SceneCheck, out_dir: Path) -> Path:
    """Draws the outlines of mask, sphere and hull over every photograph, and all of them on one sheet.

    Args:
        check: Result of `check_scene`.
        out_dir: Folder for `check_<image name>.png` and `contact_sheet.png`.

    Returns:
        The contact sheet's path.

    Raises:
        OutputError: Writing failed.
    """
    num_views = len(check.views)
    columns = math.ceil(math.sqrt(num_views))
    cell_width = min(CELL_WIDTH, LARGEST_SHEET // columns)
    border = border_for(check)
    rows: list[list[Image]] = []
    for k in range(num_views):
        thick = max(1, round(max(check.views.masks[k].shape) / 400))
        _write_png(out_dir / f"check_{check.images[k].stem}.png", draw_view(check, k, border, thick))
        if k % columns == 0:
            rows.append([])
        rows[-1].append(draw_small(check, k, border, cell_width))
    sheet_path = out_dir / "contact_sheet.png"
    _write_png(sheet_path, _sheet(rows, columns * cell_width))
    return sheet_path


def border_for(check: SceneCheck) -> tuple[int, int]:
    """Rows and columns to add on each side to show the sphere's outlines, up to `MAX_BORDER`."""
    border = np.zeros(2)
    for k in range(len(check.views)):
        outline = sphere_outline(check.views, k, check.center, check.radius)
        if outline is not None:
            size = np.array(check.views.masks[k].shape[::-1])
            beyond = np.maximum(-outline.min(axis=0), outline.max(axis=0) - size).clip(0)
            border = np.maximum(border, np.minimum(beyond + 0.02 * size, MAX_BORDER * size))
    return int(border[1]), int(border[0])


def draw_view(check: SceneCheck, k: int, border: tuple[int, int], thick: int) -> Image:
    """Draws one photograph with its outlines and a border.

    Args:
        check: Result of `check_scene`.
        k: Index of the view.
        border: Rows and columns added on each side.
        thick: Width of the outlines in pixels.

    Returns:
        (H + 2 rows, W + 2 columns, 3) RGB.
    """
    mask = check.views.masks[k]
    photo = load_rgb(check.images[k])
    if photo.shape[:2] != mask.shape:
        photo = cv2.resize(photo, mask.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    rows, columns = border
    canvas = cv2.copyMakeBorder(photo, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=BACKGROUND)
    regions = [(mask, MASK_COLOR)]
    if check.hull is not None:
        regions.insert(0, (hull_silhouette(check.views, k, check.hull), HULL_COLOR))
    for region, color in regions:
        contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, color, thick, offset=(columns, rows))
    view = check.checks[k]
    _write_text(canvas, f"{k}: {check.images[k].name}  IoU {view.hull_iou:.2f}", 1, TEXT_COLOR)
    for line, warning in enumerate(view.warnings, start=2):
        _write_text(canvas, warning, line, ALARM_COLOR)
    sphere = sphere_outline(check.views, k, check.center, check.radius)
    if sphere is not None:
        curve = np.clip(np.round(sphere + [columns, rows]), -30_000, 30_000).astype(np.int32)
        cv2.polylines(canvas, [curve], True, SPHERE_COLOR, thick, cv2.LINE_AA)
    return canvas


def draw_small(check: SceneCheck, k: int, border: tuple[int, int], width: int) -> Image:
    """Draws a view like `draw_view`, reduced to a width, with outlines one pixel wide after the reduction.

    Args:
        check: Result of `check_scene`.
        k: Index of the view.
        border: Rows and columns added on each side before the reduction.
        width: Pixels.

    Returns:
        (H', width, 3) RGB.
    """
    whole = check.views.masks[k].shape[1] + 2 * border[1]
    image = draw_view(check, k, border, max(1, round(1.2 * whole / width)))
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _write_text(canvas: Image, text: str, line: int, color: tuple[int, int, int]) -> None:
    """Writes a line of text at the top, in a size proportional to the canvas."""
    size = canvas.shape[1] / 900
    height = round(34 * size)
    canvas[(line - 1) * height : line * height] = BACKGROUND
    place, width = (round(12 * size), round((line - 0.25) * height)), max(1, round(1.6 * size))
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, width, cv2.LINE_AA)


def _sheet(rows: list[list[Image]], width: int) -> Image:
    """Arranges the cells in rows below a legend."""
    size = width / 2400
    legend = np.full((round(60 * size), width, 3), BACKGROUND, np.uint8)
    place, thick = (round(12 * size), round(42 * size)), max(1, round(2 * size))
    cv2.putText(legend, LEGEND, place, cv2.FONT_HERSHEY_SIMPLEX, size, TEXT_COLOR, thick, cv2.LINE_AA)
    bands = [legend]
    for row in rows:
        band = np.full((max(cell.shape[0] for cell in row), width, 3), BACKGROUND, np.uint8)
        left = 0
        for cell in row:
            band[: cell.shape[0], left : left + cell.shape[1]] = cell
            left += cell.shape[1]
        bands.append(band)
    return np.vstack(bands)


def _write_png(path: Path, image: Image) -> None:
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_atomic(path, lambda file: file.write(encoded))
