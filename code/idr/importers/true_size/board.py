"""The printed board: a chessboard with markers (ChArUco), drawn at true size, and found in photographs.

N corners. The board's frame is in meters, its corners lie in the plane z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from idr.errors import InputError
from idr.geometry.alignment import fit_similarity
from idr.importers.source import Array, Progress
from idr.importers.true_size.observations import Shot, Triangulated, triangulate
from idr.progress_bar import with_progress

PAPERS = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}
"""Width and height in millimeters."""
TAGS = {
    "aruco": (cv2.aruco.DICT_5X5_50, 7),
    "april": (cv2.aruco.DICT_APRILTAG_36h11, 8),
}
"""Dictionaries of markers, and cells along a side of theirs with its border."""
CELL_PIXELS = 30
"""Pixels of a marker's cell on the page; markers and squares then have whole pixels."""
MM_PER_INCH = 25.4


@dataclass(frozen=True)
class BoardSettings:
    """The board's layout, and what its detection must reach."""

    columns: int = 7  # squares
    rows: int = 9
    side: float = 25.0  # of a square, millimeters; the largest multiple of 5 that fits both papers
    sides: tuple[float, float] = (5.0, 500.0)  # accepted sides, millimeters: others are of another unit
    marker: float = 0.75  # side of a marker over that of a square
    margin: float = 9.0  # millimeters that printers leave blank, with room for the text
    min_corners: int = 6  # in a photograph, and triangulated
    max_miss: float = 0.02  # rms distance of the corners from the triangulated ones over the image's height
    max_bend: float = 0.02  # rms distance of the corners from their places over the board's diagonal


SETTINGS = BoardSettings()


def make_board(tags: str = "aruco") -> Any:
    """Returns OpenCV's board with squares of side 1 and the markers of one of `TAGS`."""
    dictionary = cv2.aruco.getPredefinedDictionary(TAGS[tags][0])
    return cv2.aruco.CharucoBoard((SETTINGS.columns, SETTINGS.rows), 1.0, SETTINGS.marker, dictionary)


def check_side(side: float, flag: str) -> None:
    """Raises `InputError` for a side of a square, millimeters, that no printed board has."""
    least, most = SETTINGS.sides
    if not least <= side <= most:
        raise InputError(
            f"{flag}: a square of {side:g} mm; expected the side of one square of the printed board in "
            f"millimeters, {least:g} to {most:g}: measure it and write, for example, board:{SETTINGS.side:g}"
        )


def draw_page(paper: str, side: float, tags: str = "aruco") -> tuple[Image.Image, float]:
    """Draws the board on a page.

    Args:
        paper: A key of `PAPERS`.
        side: Side of a square in millimeters.
        tags: A key of `TAGS`.

    Returns:
        The page, black and white, and its resolution in dots per inch, at which squares have their size.

    Raises:
        InputError: The board does not fit the page, or its squares are too small.
    """
    check_side(side, f"--side {side:g}")
    width, height = PAPERS[paper]
    lengths = ((width, SETTINGS.columns), (height, SETTINGS.rows))
    largest = min((length - 2 * SETTINGS.margin) / count for length, count in lengths)
    if side > largest:
        raise InputError(
            f"--side {side:g}: a board of {SETTINGS.columns} x {SETTINGS.rows} such squares does not fit "
            f"{paper} paper; expected at most {int(largest)} (print it larger with your printer's zoom and "
            "measure the squares)"
        )
    pixels = round(TAGS[tags][1] * CELL_PIXELS / SETTINGS.marker)  # of a square
    per_mm = pixels / side
    page = Image.new("L", (round(width * per_mm), round(height * per_mm)), 255)
    drawn = (SETTINGS.columns * pixels, SETTINGS.rows * pixels)
    corner = ((page.width - drawn[0]) // 2, (page.height - drawn[1]) // 2)
    page.paste(Image.fromarray(make_board(tags).generateImage(drawn)), corner)
    draw = ImageDraw.Draw(page)
    text = (
        f"idr board: squares of {side:g} mm. Print at 100 % (actual size), measure a square, lay it flat "
        f"beside the object, then import with --scale_by board:{side:g} (or the side measured)"
    )
    size = 3.2 * per_mm
    size *= min(1.0, 0.95 * drawn[0] / draw.textlength(text, ImageFont.load_default(size)))
    place = (page.width / 2, corner[1] + drawn[1] + SETTINGS.margin / 2 * per_mm)
    draw.text(place, text, 0, ImageFont.load_default(size), anchor="mm")
    return page.convert("1", dither=Image.Dither.NONE), per_mm * MM_PER_INCH


@dataclass(frozen=True)
class BoardFit:
    """The board in the source's frame.

    Attributes:
        unit_per_meter: Length of a meter in the source's unit.
        relative_error: Its relative standard error.
        num_corners: Triangulated corners.
        num_views: Photographs that show it.
        up: (3,) unit normal towards the cameras.
        height: `up` times the points of the board, in the source's unit.
    """

    unit_per_meter: float
    relative_error: float
    num_corners: int
    num_views: int
    up: Array
    height: float


def find_board(shots: list[Shot], side: float, progress: Progress) -> BoardFit:
    """Finds the board in photographs, triangulates its corners and fits the printed ones to them.

    Args:
        shots: The photographs.
        side: Side of a square in millimeters.
        progress: Receives a line on what was found.

    Raises:
        InputError: Fewer than two photographs show it, or its corners do not form the board.
    """
    found = _corners_seen(shots)
    progress(f"the board is in {len(found)} of {len(shots)} photographs")
    places = np.asarray(make_board().getChessboardCorners(), dtype=np.float64) * side / 1000
    corners_found = _triangulate_corners(shots, found)
    if len(found) < 2 or len(corners_found) < SETTINGS.min_corners:
        names = f" ({', '.join(shots[k].view.name for k in list(found)[:5])})" if found else ""
        raise InputError(
            f"--scale_by board: {len(found)} of {len(shots)} photographs show the board{names}, with "
            f"{len(corners_found)} corners in two or more; expected at least 2 and {SETTINGS.min_corners}: "
            "print it with idr board, lay it flat beside the object, sharp and large in several photographs; "
            "or give another length with --scale_by cameras:... or points:..."
        )
    misses = np.concatenate([corner.residuals for corner in corners_found.values()])
    miss = float(np.sqrt((misses**2).sum(axis=1).mean())) / shots[next(iter(found))].size[0]
    if not miss <= SETTINGS.max_miss:
        raise InputError(
            f"--scale_by board: its corners miss their places in the photographs by {miss:.1%} of the "
            f"height; expected at most {SETTINGS.max_miss:.0%}: keep the board still beside the object in "
            "all photographs, and print only one"
        )
    points = np.stack([corner.point for corner in corners_found.values()])
    return _fit(places[list(corners_found)], points, len(found))


def _corners_seen(shots: list[Shot]) -> dict[int, dict[int, NDArray[np.float64]]]:
    """Returns the pixels of the corners, by number, in each photograph that shows the board.

    Its markers are those of the first photograph that shows one of `TAGS`.
    """
    detectors = {tags: cv2.aruco.CharucoDetector(make_board(tags)) for tags in TAGS}
    found: dict[int, dict[int, NDArray[np.float64]]] = {}
    for k, shot in enumerate(with_progress(shots, "board")):
        gray = cv2.cvtColor(shot.rgb, cv2.COLOR_RGB2GRAY)
        for tags, detector in detectors.items():
            corners, numbers, _, _ = detector.detectBoard(gray)
            if numbers is not None and len(numbers) >= SETTINGS.min_corners:
                pixels = shot.pinhole_pixels(np.asarray(corners, dtype=np.float64).reshape(-1, 2))
                found[k] = dict(zip(np.ravel(numbers).tolist(), pixels, strict=True))
                detectors = {tags: detector}
                break
    return found


def _triangulate_corners(
    shots: list[Shot], found: dict[int, dict[int, NDArray[np.float64]]]
) -> dict[int, Triangulated]:
    """Triangulates the corners, by number, that two or more of the `found` views show."""
    corners: dict[int, Triangulated] = {}
    for number in sorted({n for seen in found.values() for n in seen}):
        views = [k for k, seen in found.items() if number in seen and np.isfinite(seen[number]).all()]
        if len(views) < 2:
            continue
        projections = np.stack([shots[k].projection for k in views])
        corner = triangulate(np.stack([found[k][number] for k in views]), projections)
        if corner is not None:
            corners[number] = corner
    return corners


def _fit(places: Array, points: Array, num_views: int) -> BoardFit:
    """Fits corners (N, 3) of the board, meters, to the triangulated ones, in the source's unit."""
    fit = fit_similarity(places, points)
    residuals = points - (fit.scale * places @ fit.rotation.T + fit.translation)
    diagonal = fit.scale * np.linalg.norm(np.ptp(places, axis=0))
    bend = float(np.sqrt((residuals**2).sum(axis=1).mean()) / diagonal)
    if not bend <= SETTINGS.max_bend:
        raise InputError(
            f"--scale_by board: the corners are {bend:.0%} of the board's size away from their places; "
            f"expected at most {SETTINGS.max_bend:.0%}: keep the board flat and still in all photographs, "
            "show it in more of them, and print only one"
        )
    variance = (residuals**2).sum() / (residuals.size - 7)  # a similarity has 7 parameters
    spread = np.linalg.norm(fit.scale * (places - places.mean(axis=0)))
    up = -fit.rotation[:, 2]  # OpenCV's z axis points into the board
    error = float(np.sqrt(variance) / spread)
    return BoardFit(fit.scale, error, len(places), num_views, up, float(up @ fit.translation))
