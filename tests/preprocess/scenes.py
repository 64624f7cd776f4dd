"""Synthetic views of ellipsoids with exact silhouettes, and the folder of the real scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from idr.preprocess.scene_views import SceneViews, make_views

SCENES = Path(__file__).resolve().parents[3] / "shared" / "scenes"
IMAGE_SIZE = (90, 120)
INTRINSICS = np.array([[140.0, 0.7, 61.0], [0.0, 150.0, 43.0], [0.0, 0.0, 1.0]])


def real_scene(name: str) -> Path:
    """Folder of a real scene; skips the test without it."""
    folder = SCENES / name
    if not folder.is_dir():
        pytest.skip(f"the real scene {name} is not on this machine")
    return folder


def look_at(
    center: np.ndarray, target: np.ndarray, up: tuple[float, float, float] = (0.1, 0.2, 1.0)
) -> np.ndarray:
    """World-to-camera (3, 4) of a camera that looks at a target, OpenCV axes."""
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross(z, np.asarray(up))
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.column_stack([rotation, -rotation @ center])


def ellipsoid_mask(
    projection: np.ndarray, radii: np.ndarray, size: tuple[int, int] = IMAGE_SIZE
) -> np.ndarray:
    """Silhouette of (x/a)^2 + (y/b)^2 + (z/c)^2 = 1, from ray intersections in front of the camera."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([columns, rows, np.ones(size)], axis=-1).reshape(-1, 3)
    inverse = np.linalg.inv(projection[:, :3])
    origin = (-inverse @ projection[:, 3]) / radii
    directions = (pixels @ inverse.T) / radii
    a, b = (directions**2).sum(axis=1), directions @ origin
    root = b**2 - a * (origin @ origin - 1.0)
    return ((root > 0) & (-b + np.sqrt(root.clip(0)) > 0)).reshape(size)


def world_mats(centers: np.ndarray, target: np.ndarray | float = 0.0) -> np.ndarray:
    """(B, 3, 4) projections of cameras that look at a target."""
    return np.stack([INTRINSICS @ look_at(center, np.zeros(3) + target) for center in centers])


def ellipsoid_views(
    centers: np.ndarray, radii: tuple[float, float, float] = (1.0, 1.0, 1.0), target: np.ndarray | float = 0.0
) -> SceneViews:
    """Views of an ellipsoid around the origin."""
    matrices = world_mats(centers, target)
    masks = tuple(ellipsoid_mask(matrix, np.asarray(radii)) for matrix in matrices)
    return make_views(names_of(len(masks)), masks, matrices)


def names_of(count: int) -> tuple[str, ...]:
    """File names 000.png, 001.png, ..."""
    return tuple(f"{k:03d}.png" for k in range(count))


def sphere_centers(count: int, distance: float = 5.0) -> np.ndarray:
    """Camera centers spread evenly over a sphere."""
    k = np.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    return distance * np.column_stack([np.cos(turn) * np.sqrt(1 - z**2), np.sin(turn) * np.sqrt(1 - z**2), z])


def ring_centers(
    count: int, degrees: float = 360.0, height: float = 0.0, distance: float = 5.0
) -> np.ndarray:
    """Camera centers on a horizontal arc."""
    turn = np.radians(np.linspace(0.0, degrees, count, endpoint=degrees < 360.0))
    flat = np.column_stack([np.cos(turn), np.sin(turn), np.full(count, height)])
    return distance * flat / np.linalg.norm(flat, axis=1, keepdims=True)


def subset(views: SceneViews, indices: list[int]) -> SceneViews:
    """The views with these indices, in this order."""
    return SceneViews(
        tuple(views.names[k] for k in indices),
        tuple(views.masks[k] for k in indices),
        views.intrinsics[indices],
        views.poses[indices],
        views.projections[indices],
    )
