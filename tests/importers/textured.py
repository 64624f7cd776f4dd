"""Textured photographs for structure from motion: a box on the ground, both with random textures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH, FOCAL = 240, 320, 330.0
SIDE = 256  # texels along a face
BOX = 0.5  # half the edge length
FACES = {  # corner and two edges of each face
    "top": ((-1, -1, 1), (2, 0, 0), (0, 2, 0)),
    "front": ((-1, -1, -1), (2, 0, 0), (0, 0, 2)),
    "back": ((-1, 1, -1), (2, 0, 0), (0, 0, 2)),
    "left": ((-1, -1, -1), (0, 2, 0), (0, 0, 2)),
    "right": ((1, -1, -1), (0, 2, 0), (0, 0, 2)),
}


def poses(count: int, step_degrees: float = 14.0, distance: float = 3.2) -> np.ndarray:
    """(B, 4, 4) camera-to-world poses on an arc above the ground."""
    heights = 0.55 + 0.1 * np.sin(2.0 * np.arange(count))
    return np.stack([pose_at(20 + step_degrees * k, heights[k], distance) for k in range(count)])


def pose_at(degrees: float, height: float, distance: float = 3.2) -> np.ndarray:
    """(4, 4) camera-to-world pose that looks at the box's center from an azimuth."""
    turn = np.radians(degrees)
    center = distance * np.array([np.cos(turn), np.sin(turn), height])
    forward = -center / np.linalg.norm(center)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = center
    return pose


def texture(seed: int, color: tuple[int, int, int]) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: noise at three scales in one color."""
    generator = np.random.default_rng(seed)
    gray = np.zeros((SIDE, SIDE))
    for blur in (1.2, 3.0, 8.0):
        layer = cv2.GaussianBlur(generator.standard_normal((SIDE, SIDE)), (0, 0), blur)
        gray += layer / layer.std()
    shade = np.clip(0.65 + 0.12 * gray, 0.25, 1)
    return (shade[..., None] * np.array(color)).astype(np.uint8)


def backdrop() -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 RGB of a textured wall, for a camera that stands still."""
    return cv2.resize(texture(99, (150, 220, 140))[: SIDE // 2, : SIDE // 2], (WIDTH, HEIGHT))


def photograph(pose: np.ndarray, seed: int = 0, behind: np.ndarray | None = None) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 RGB; faces are drawn back to front.

    With an image `behind` it, the box stands on a turntable, without other ground.
    """
    k = np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]])
    world_to_camera = np.linalg.inv(pose)[:3]
    ground = (np.array([-3, -3, -BOX]), np.array([6.0, 0, 0]), np.array([0, 6.0, 0]))
    box = [tuple(BOX * np.array(part, dtype=float) for part in face) for face in FACES.values()]
    patches = [(*face, seed + i, (250, 190, 90)) for i, face in enumerate(box, start=1)]
    patches.sort(key=lambda patch: -float(np.linalg.norm(sum(patch[1:3]) / 2 + patch[0] - pose[:3, 3])))
    patches.insert(0, (*ground, seed, (90, 150, 230)))
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8) if behind is None else behind.copy()
    for corner, across, up, number, color in patches:
        plane = np.column_stack([across / SIDE, up / SIDE, corner])  # texel -> world
        to_pixels = k @ (world_to_camera[:, :3] @ plane + np.outer(world_to_camera[:, 3], [0, 0, 1]))
        drawn = cv2.warpPerspective(texture(number, color), to_pixels, (WIDTH, HEIGHT), flags=cv2.INTER_AREA)
        covered = np.full((SIDE, SIDE), 255, np.uint8)
        if behind is not None and number == seed:
            covered = cv2.circle(0 * covered, (SIDE // 2, SIDE // 2), SIDE // 6, 255, -1)
        cover = cv2.warpPerspective(covered, to_pixels, (WIDTH, HEIGHT))
        image[cover > 127] = drawn[cover > 127]
    return image


def write(folder: Path, views: np.ndarray, ending: str = "png") -> list[Path]:
    """Writes one photograph per pose: view1.png, view2.png ... view10.png."""
    folder.mkdir(parents=True)
    files = []
    for number, pose in enumerate(views, start=1):
        files.append(folder / f"view{number}.{ending}")
        cv2.imwrite(str(files[-1]), cv2.cvtColor(photograph(pose), cv2.COLOR_RGB2BGR))
    return files


def turntable_poses(count: int, height: float = 0.55) -> np.ndarray:
    """(B, 4, 4) poses of a camera that stands still, relative to a box that turns by a whole turn."""
    return np.stack([pose_at(360.0 * k / count, height) for k in range(count)])
