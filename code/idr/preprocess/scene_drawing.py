"""Draws outlines of mask, sphere and hull over each photograph, singly and on a contact sheet; and masks.

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
from idr.errors import printable
from idr.files import write_atomic
from idr.preprocess.outlines import hull_silhouette, sphere_outline
from idr.preprocess.scene_check import SceneCheck
from idr.preprocess.scene_views import Mask, SceneViews
from idr.progress_bar import with_progress

Image: TypeAlias = NDArray[Any]  # (H, W, 3) uint8 RGB; cv2's stubs have no dtype
Color: TypeAlias = tuple[int, int, int]

MASK_COLOR, SPHERE_COLOR, HULL_COLOR = (64, 220, 64), (255, 210, 0), (255, 40, 200)  # RGB
BACKGROUND, TEXT_COLOR, ALARM_COLOR = (32, 32, 32), (255, 255, 255), (255, 90, 80)
SHEET = "contact_sheet.png"
LEGEND = "green: mask   yellow: unit sphere   magenta: visual hull"
MAX_BORDER = 0.75
"""Largest border that is added to show a sphere beyond the image, over the image's side."""
CELL_WIDTH, LARGEST_SHEET = 480, 4000
"""Pixels: width of a view on the contact sheet, and largest width of the sheet."""
MASK_WIDTH, LARGEST_MASKS, TITLE_ROWS = 320, 3200, 18
"""Pixels: the same for the sheet of masks, and the height of a view's title."""
OUTLINE_COLOR, DIMMED = (255, 40, 200), 0.35
"""Color of a mask's outline there, and brightness outside."""


def draw_scene(check: SceneCheck, out_dir: Path) -> Path:
    """Draws outlines over every photograph, `check_<image name>.png`, and all views on one sheet.

    It returns the path of the sheet, `contact_sheet.png` in the folder.

    Raises:
        OutputError: Writing failed.
    """
    columns = math.ceil(math.sqrt(len(check.views)))
    cell_width = min(CELL_WIDTH, LARGEST_SHEET // columns)
    border = border_for(check)
    cells = []
    for k, image in enumerate(with_progress(check.images, "drawing")):
        thick = max(1, round(max(check.views.masks[k].shape) / 400))
        write_png(out_dir / f"check_{image.stem}.png", draw_view(check, k, border, thick))
        cells.append(draw_small(check, k, border, cell_width))
    sheet = _in_rows(cells, columns, BACKGROUND)
    sheet_path = out_dir / SHEET
    write_png(sheet_path, np.vstack([_legend(sheet.shape[1]), sheet]))
    return sheet_path


def draw_sheet(views: SceneViews, images: Path, path: Path) -> None:
    """Draws every image of a folder, dimmed outside its mask, with the mask's outline, on one PNG.

    Raises:
        OutputError: Writing failed.
    """
    columns = math.ceil(math.sqrt(len(views)))
    width = min(MASK_WIDTH, LARGEST_MASKS // columns)
    cells = [
        _masked_cell(images / name, mask, width) for name, mask in zip(views.names, views.masks, strict=True)
    ]
    write_png(path, _in_rows(cells, columns, (0, 0, 0)))


def _masked_cell(image: Path, mask: Mask, width: int) -> Image:
    height = max(1, round(width * mask.shape[0] / mask.shape[1]))
    photo = cv2.resize(load_rgb(image), (width, height), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA) > 0
    shown = np.where(inside[..., None], photo, (photo * DIMMED).astype(np.uint8)).astype(np.uint8)
    _draw_contours(shown, inside, OUTLINE_COLOR)
    title = np.zeros((TITLE_ROWS, width, 3), np.uint8)
    text = f"{image.name}  {mask.mean():.0%}"
    _put_text(title, text, (4, 13), 0.45, TEXT_COLOR, 1)
    return np.vstack([title, shown])


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


def draw_view(check: SceneCheck, k: int, border: tuple[int, int], thick: int, titled: bool = True) -> Image:
    """Draws photograph k, outlines `thick` pixels wide, and a border: (H + 2 rows, W + 2 columns, 3).

    A title has name, IoU and warnings.
    """
    mask = check.views.masks[k]
    photo = load_rgb(check.images[k])
    if photo.shape[:2] != mask.shape:
        photo = cv2.resize(photo, mask.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    rows, columns = border
    canvas = cv2.copyMakeBorder(photo, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=BACKGROUND)
    if check.hull is not None:
        silhouette = hull_silhouette(check.views, k, check.hull)
        _draw_contours(canvas, silhouette, HULL_COLOR, thick, (columns, rows))
    _draw_contours(canvas, mask, MASK_COLOR, thick, (columns, rows))
    if titled:
        view = check.checks[k]
        _write_text(canvas, f"{k}: {check.images[k].name}  IoU {view.hull_iou:.2f}", 1, TEXT_COLOR)
        for line, warning in enumerate(view.warnings, start=2):
            _write_text(canvas, warning, line, ALARM_COLOR)
    sphere = sphere_outline(check.views, k, check.center, check.radius)
    if sphere is not None:
        curve = np.clip(np.round(sphere + [columns, rows]), -30_000, 30_000).astype(np.int32)
        cv2.polylines(canvas, [curve], True, SPHERE_COLOR, thick, cv2.LINE_AA)
    return canvas


def draw_small(
    check: SceneCheck, k: int, border: tuple[int, int], width: int, titled: bool = True
) -> Image:
    """Draws a view like `draw_view`, reduced to (H', width, 3), with outlines then one pixel wide."""
    whole = check.views.masks[k].shape[1] + 2 * border[1]
    image = draw_view(check, k, border, max(1, round(1.2 * whole / width)), titled)
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _draw_contours(
    canvas: Image, region: Mask, color: Color, thick: int = 1, offset: tuple[int, int] = (0, 0)
) -> None:
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, thick, offset=offset)


def _write_text(canvas: Image, text: str, line: int, color: Color) -> None:
    """Writes a line of text at the top, in a size proportional to the canvas."""
    size = canvas.shape[1] / 900
    height = round(34 * size)
    canvas[(line - 1) * height : line * height] = BACKGROUND
    place, width = (round(12 * size), round((line - 0.25) * height)), max(1, round(1.6 * size))
    _put_text(canvas, printable(text), place, size, color, width, cv2.LINE_AA)


def _legend(width: int) -> Image:
    size = width / 2400
    legend = np.full((round(60 * size), width, 3), BACKGROUND, np.uint8)
    place, thick = (round(12 * size), round(42 * size)), max(1, round(2 * size))
    _put_text(legend, LEGEND, place, size, TEXT_COLOR, thick, cv2.LINE_AA)
    return legend


def _put_text(
    canvas: Image, text: str, place: tuple[int, int], size: float, color: Color, thick: int, line: int = 8
) -> None:
    """Draws text; what OpenCV's font lacks becomes `?`: it crashes on names that are no UTF-8."""
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, thick, line)


def _in_rows(cells: list[Image], columns: int, background: Color) -> Image:
    width = cells[0].shape[1]
    bands = []
    for row in (cells[start : start + columns] for start in range(0, len(cells), columns)):
        band = np.full((max(cell.shape[0] for cell in row), columns * width, 3), background, np.uint8)
        for k, cell in enumerate(row):
            band[: cell.shape[0], k * width : (k + 1) * width] = cell
        bands.append(band)
    return np.vstack(bands)


def write_png(path: Path, image: Image) -> None:
    """Writes (H, W, 3) RGB or (H, W) gray levels, uint8, atomically."""
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    write_atomic(path, lambda file: file.write(encoded))
