"""Scenes whose photographs show known points as bright spots.

A `Projector` maps (N, 3) world points to (N, 2) array coordinates; 0 is the center of the first pixel. The
writers implement each format's projector independently of the importers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import center_of_mass

Projector = Callable[[np.ndarray], np.ndarray]

HEIGHT, WIDTH = 96, 128
FX, FY, CX, CY = 150.0, 146.0, 61.3, 50.2
POINTS = np.array(
    [[0.0, 0, 0], [0.5, 0.1, -0.2], [-0.4, 0.35, 0.2], [0.1, -0.5, 0.3], [-0.2, -0.3, -0.5], [0.3, 0.45, 0.4]]
)
SPREAD = 1.4  # standard deviation of a spot in pixels
BALL = 0.9  # radius of the object in the masks


def camera_to_world(count: int = 6, distance: float = 4.0) -> list[np.ndarray]:
    """(4, 4) OpenCV poses of cameras around the origin that look approximately at it."""
    poses = []
    for k in range(count):
        z = 1 - (2 * k + 1) / count * 0.8
        turn = 2.4 * k
        center = distance * np.array(
            [np.cos(turn) * np.sqrt(1 - z * z), np.sin(turn) * np.sqrt(1 - z * z), z]
        )
        forward = (0.05 * np.array([1, -1, 0.5]) - center) / np.linalg.norm(center)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.1, 0.3, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = center
        poses.append(pose)
    return poses


def camera_frame(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """World points in an OpenCV camera's frame."""
    return (points - pose[:3, 3]) @ pose[:3, :3]


def photograph(projector: Projector, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """(H, W, 3) uint8: gray with one spot per point."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.full(size, 30.0)
    for u, v in projector(POINTS):
        image += 200 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * SPREAD**2))
    return np.repeat(np.clip(np.round(image), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def silhouette(projector: Projector, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """(H, W) uint8: the ball around the origin, white on black."""
    generator = np.random.default_rng(0)
    shell = generator.standard_normal((4000, 3))
    shell *= BALL / np.linalg.norm(shell, axis=1, keepdims=True)
    outline = cv2.convexHull(projector(shell).astype(np.float32))
    mask = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(mask, np.round(outline).astype(np.int32), 255)
    return mask


def write_photographs(
    folder: Path, names: list[str], projectors: list[Projector], masks: Path | None
) -> None:
    """Writes one image per projector, and its mask under the same stem."""
    for name, projector in zip(names, projectors, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photograph(projector))
        if masks is not None:
            masks.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(masks / f"{path.stem}.png"), silhouette(projector))


def largest_miss(scene: Path, window: int = 5) -> float:
    """Largest distance in pixels between the points projected by cameras.npz and their spots."""
    cameras = np.load(scene / "cameras.npz")
    misses = []
    for k, path in enumerate(sorted((scene / "image").iterdir())):
        gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float) - 30
        expected = project(cameras[f"world_mat_{k}"], POINTS)
        for j, (u, v) in enumerate(expected):
            others = np.delete(expected, j, axis=0)
            if np.linalg.norm(others - [u, v], axis=1).min() < 2.5 * window:
                continue  # overlapping spots
            left, top = round(u) - window, round(v) - window
            if min(left, top) < 0 or left + 2 * window >= gray.shape[1] or top + 2 * window >= gray.shape[0]:
                continue
            patch = gray[top : top + 2 * window + 1, left : left + 2 * window + 1].clip(2) - 2
            row, column = center_of_mass(patch)
            misses.append(np.hypot(left + column - u, top + row - v))
    assert len(misses) >= len(POINTS), "too few spots could be measured"
    return float(max(misses))


def project(world_mat: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Projects points to (N, 2) with a matrix of cameras.npz."""
    pixels = points @ world_mat[:3, :3].T + world_mat[:3, 3]
    return pixels[:, :2] / pixels[:, 2:]
