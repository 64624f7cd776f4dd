"""Photographs of the printed board, rendered without the importer: rays through OpenCV's lens onto a plane.

The board lies in the plane z = 0 of a frame in meters; the world of the cameras is another frame with an
arbitrary unit.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from idr.importers.source import Source, SourceView
from idr.importers.true_size.board import SETTINGS, make_board

UNIT = 0.137
"""Meters per unit of the world."""
HEIGHT, WIDTH, FOCAL = 480, 640, 700.0
K = np.array([[FOCAL, 0, 330.0], [0, FOCAL, 232.0], [0, 0, 1]])
SIDE = 0.025
TEXELS = {"aruco": 56, "april": 64}
"""Of a square, in the drawing that is sampled, by the kind of markers: whole ones for each of their cells."""
WORLD_TURN, WORLD_SHIFT = cv2.Rodrigues(np.array([0.4, -1.1, 0.3]))[0], np.array([3.0, -2.0, 5.0])
SIZE = np.array([SETTINGS.columns, SETTINGS.rows]) * SIDE


def poses(count: int = 6) -> list[np.ndarray]:
    """(4, 4) camera-to-board poses in meters, half a meter away, around and above the board."""
    found = []
    for turn in np.linspace(0, 2 * np.pi, count, endpoint=False):
        center = 0.5 * np.array([0.7 * np.cos(turn), 0.7 * np.sin(turn), -0.7])  # its z points away from us
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, -1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = center + [*SIZE / 2, 0]
        found.append(pose)
    return found


def world_from(points: np.ndarray) -> np.ndarray:
    """Points in meters, (..., 3), in the world."""
    return (points @ WORLD_TURN.T) / UNIT + WORLD_SHIFT


def world_to_camera(pose: np.ndarray) -> np.ndarray:
    """(3, 4) [R | t] of a pose of `poses`."""
    turn = WORLD_TURN @ pose[:3, :3]
    return np.column_stack([turn.T, -turn.T @ world_from(pose[:3, 3])])


def photograph(
    pose: np.ndarray, lens: np.ndarray | None = None, has_board: bool = True, tags: str = "aruco"
) -> np.ndarray:
    """(H, W, 3) uint8 of the board on gray, 3 x 3 samples per pixel."""
    texels = TEXELS[tags]
    drawing = make_board(tags).generateImage(tuple(int(n) for n in np.round(SIZE / SIDE * texels)))
    if not has_board:
        drawing = np.full_like(drawing, 128)
    offsets = (np.arange(3) - 1) / 3
    rows = (np.arange(HEIGHT)[:, None] + offsets).ravel()
    columns = (np.arange(WIDTH)[:, None] + offsets).ravel()
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(pixels, K, np.zeros(4) if lens is None else lens)[:, 0]
    directions = np.column_stack([rays, np.ones(len(rays))]) @ pose[:3, :3].T
    hits = pose[:3, 3] - directions * (pose[2, 3] / directions[:, 2])[:, None]
    places = (hits[:, :2] / SIDE * texels - 0.5).astype(np.float32).reshape(len(rows), len(columns), 2)
    image = cv2.remap(drawing, places, None, cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT, 200)
    return np.repeat(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)[..., None], 3, axis=2)


def source(
    folder: Path, count: int = 6, lens: np.ndarray | None = None, with_board: int = 99, tags: str = "aruco"
) -> Source:
    """Writes photographs, the first `with_board` of them with the board; the scene that they make."""
    folder.mkdir(parents=True)
    views = []
    for k, pose in enumerate(poses(count)):
        path = folder / f"{k}.png"
        cv2.imwrite(str(path), photograph(pose, lens, k < with_board, tags))
        views.append(SourceView(path.name, path, K, world_to_camera(pose), distortion(lens)))
    return Source("made", tuple(views))


def distortion(lens: np.ndarray | None):
    """The importer's function for OpenCV's coefficients."""
    if lens is None:
        return None

    def distort(points: np.ndarray) -> np.ndarray:
        rays = np.column_stack([points, np.ones(len(points))])
        return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), lens)[0].reshape(-1, 2)

    return distort


def pixel_of(point: np.ndarray, pose: np.ndarray, lens: np.ndarray | None = None) -> list[float]:
    """Pixel of a point in meters, by OpenCV."""
    inverse = np.linalg.inv(pose)
    turn, coefficients = cv2.Rodrigues(inverse[:3, :3])[0], np.zeros(4) if lens is None else lens
    return cv2.projectPoints(point[None], turn, inverse[:3, 3], K, coefficients)[0].ravel().tolist()
