"""A contact sheet of masks: each photograph dimmed outside its mask, with the outline."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from idr.datasets.images import load_rgb
from idr.files import write_atomic
from idr.preprocess.scene_views import SceneViews

CELL_WIDTH, LARGEST_SHEET = 320, 3200
"""Pixels: width of a view, and largest width of the sheet."""
OUTLINE, DIMMED = (255, 40, 200), 0.35  # RGB; brightness outside the mask
TITLE_ROWS = 18


def draw_sheet(views: SceneViews, images: Path, path: Path) -> None:
    """Writes the sheet.

    Args:
        views: Masks, and the names of the images.
        images: Folder of the images.
        path: PNG to write.

    Raises:
        OutputError: Writing failed.
    """
    columns = math.ceil(math.sqrt(len(views)))
    width = min(CELL_WIDTH, LARGEST_SHEET // columns)
    cells = [_cell(images / name, mask, width) for name, mask in zip(views.names, views.masks, strict=True)]
    height = max(cell.shape[0] for cell in cells)
    sheet = np.zeros((height * math.ceil(len(cells) / columns), width * columns, 3), np.uint8)
    for k, cell in enumerate(cells):
        top, left = k // columns * height, k % columns * width
        sheet[top : top + cell.shape[0], left : left + width] = cell
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_atomic(path, lambda file: file.write(encoded))


def _cell(image: Path, mask: np.ndarray, width: int) -> np.ndarray:
    """One view below its title."""
    height = max(1, round(width * mask.shape[0] / mask.shape[1]))
    photo = cv2.resize(load_rgb(image), (width, height), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA) > 0
    shown = np.where(inside[..., None], photo, (photo * DIMMED).astype(np.uint8)).astype(np.uint8)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, OUTLINE, 1)
    title = np.zeros((TITLE_ROWS, width, 3), np.uint8)
    cv2.putText(
        title, f"{image.name}  {mask.mean():.0%}", (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255,) * 3, 1
    )
    return np.vstack([title, shown])
