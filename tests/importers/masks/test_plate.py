"""A plain plate that masks contain, and what tells the object on it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.importers.masks.test_automatic import ious

from idr.geometry.cameras import project_points
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.plate import find_plate
from idr.importers.masks.seeds import seeds_from_cameras

SIZE, HEIGHT = (120, 160), -0.4
SHELL = np.random.default_rng(0).standard_normal((3000, 3))
SHELL /= np.linalg.norm(SHELL, axis=1, keepdims=True)


def projections(count: int = 12) -> np.ndarray:
    """Two rings of level cameras."""
    matrices = []
    for k in range(count):
        turn, rise = 2 * np.pi * k / count, np.radians(20 if k % 2 else 45)
        center = 3.1 * np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, 1.0]) / np.cos(rise)
        rotation = np.stack([right, np.cross(forward, right), forward])
        intrinsics = np.array([[160.0, 0, 79.5], [0, 160, 59.5], [0, 0, 1]])
        matrices.append(intrinsics @ np.column_stack([rotation, -rotation @ center]))
    return np.stack(matrices)


def outline(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    corners = cv2.convexHull(project_points(points, matrix)[0].astype(np.float32))
    cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 1)
    return mask > 0


def ball(matrix: np.ndarray) -> np.ndarray:
    return outline(0.4 * SHELL, matrix)


def plate(matrix: np.ndarray) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 100)
    return outline(np.column_stack([np.cos(turn), np.sin(turn), np.full(100, HEIGHT)]), matrix)


def test_a_plate_is_found_at_its_height_and_a_ball_is_none() -> None:
    matrices = projections()
    seeds = seeds_from_cameras(matrices, [SIZE] * len(matrices))
    found = find_plate([ball(m) | plate(m) for m in matrices], seeds, matrices)
    assert found is not None
    assert found.normal == pytest.approx([0, 0, 1], abs=1e-3)
    assert found.offset == pytest.approx(HEIGHT, abs=0.04)
    assert find_plate([ball(m) for m in matrices], seeds, matrices) is None


def test_masks_of_a_ball_on_a_plate() -> None:
    matrices, generator, images = projections(), np.random.default_rng(1), []
    for matrix in matrices:
        colors = np.where(plate(matrix)[..., None], [60.0, 90, 170], [150.0, 155, 145])
        colors = np.where(ball(matrix)[..., None], [170.0, 120, 60], colors)
        noisy = colors + generator.normal(0, 3, colors.shape)
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    made = make_masks(images, [f"view {k}" for k in range(len(images))], matrices, None)
    assert ious(made.masks, [ball(m) for m in matrices]).min() > 0.93
