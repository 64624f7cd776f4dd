"""A red ball that touches a blue one, before green: automatic masks take both; the object is the red one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tests.importers.masks.test_automatic import SIZE, projections, truth

from idr.cli.import_scene import main
from idr.datasets.images import load_mask
from idr.geometry.cameras import project_points

OTHER_CENTER, OTHER_RADIUS = np.array([0.0, 0.0, 1.15]), 0.35
STROKED = 1
"""The view in which tests label pixels: both balls are apart there."""


def other_ball(projection: np.ndarray) -> np.ndarray:
    """(H, W) bool."""
    shell = np.random.default_rng(0).standard_normal((4000, 3))
    shell *= OTHER_RADIUS / np.linalg.norm(shell, axis=1, keepdims=True)
    outline = cv2.convexHull(project_points(shell + OTHER_CENTER, projection)[0].astype(np.float32))
    mask = np.zeros(SIZE, np.uint8)
    cv2.fillConvexPoly(mask, np.round(outline).astype(np.int32), 1)
    return mask > 0


def write_source(folder: Path) -> Path:
    """A folder of kind `idr` without masks."""
    generator = np.random.default_rng(3)
    (folder / "image").mkdir(parents=True)
    matrices = projections()
    arrays = {}
    for k, matrix in enumerate(matrices):
        texture = cv2.GaussianBlur(generator.normal(0, 60, (*SIZE, 3)), (0, 0), 3)
        colors = np.where(truth(matrix)[..., None], [170.0, 60, 50], [70.0, 110, 60])
        colors = np.where((other_ball(matrix) & ~truth(matrix))[..., None], [50.0, 60, 170], colors)
        rgb = np.clip(colors + texture, 0, 255).astype(np.uint8)
        Image.fromarray(rgb).save(folder / "image" / f"{k}.png")
        arrays[f"world_mat_{k}"] = np.vstack([matrix, [0, 0, 0, 1]])
    np.savez(folder / "cameras.npz", **arrays)
    return folder


def import_scene(root: Path, *more: str) -> Path:
    """Imports the scene with automatic masks and returns its folder."""
    scan = root / "data" / "mine" / "scan0"
    flags = more or ("--masks", "auto", "--sphere", "hull")
    assert main([str(write_source(root / "source")), "--out", str(scan), *flags]) == 0
    return scan


def true_masks() -> list[np.ndarray]:
    return [truth(matrix) for matrix in projections()]


def ious(scan: Path) -> np.ndarray:
    """(B,) of the masks in the scene's folder with the true ones."""
    found = [load_mask(scan / "mask" / f"{k:04d}.png") for k in range(8)]
    return np.array([(a & b).sum() / (a | b).sum() for a, b in zip(found, true_masks(), strict=True)])


def spot_on_other_ball() -> tuple[int, int]:
    """(column, row) of the pixel farthest from the object on the other ball of `STROKED`."""
    matrix = projections()[STROKED]
    distance = cv2.distanceTransform((other_ball(matrix) & ~truth(matrix)).astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    return int(column), int(row)
