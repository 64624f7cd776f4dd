"""``--scale_by``: reads measures, finds the length of a source's unit from them, scales the source to meters.

World frame and unit of the source; pixels are (column, row).
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from idr.datasets.record import TrueSize
from idr.errors import InputError, MissingInputError
from idr.files import is_number, read_json
from idr.importers.photographs.source import KIND, find_photographs
from idr.importers.source import Array, Progress, Source
from idr.importers.true_size import board, gps
from idr.importers.true_size.observations import Shot, shots_of, triangulate

FORMS = "board, board:MM, cameras:IMAGE1,IMAGE2=METERS, points:FILE.json or gps"
POINTS_FORM = '{"meters": 0.25, "points": [{"a.jpg": [812, 430], "b.jpg": [790, 455]}, {"a.jpg": ...}]}'
SHORTEST, LONGEST = 1e-4, 1e5
"""Lengths that are accepted; beyond, products of coordinates lose digits."""
LENGTH = f"expected a positive number from {SHORTEST:g} to {LONGEST:g}, such as 0.25"
CLICK = 1.0
"""Standard deviation in pixels of a point that somebody marked, at least."""
MAX_MISS = 0.02
"""Largest distance of a marked pixel from the projected point, over the image's height."""
MAX_ERROR = 0.05
"""Largest relative standard error of a measure other than GPS, and of the difference between two."""


@dataclass(frozen=True)
class Measure:
    """One measure: its form and text, and what the text says.

    Attributes:
        form: `board`, `cameras`, `points` or `gps`.
        text: As given.
        length: Side of a square in millimeters (board), or meters.
        names: The two images (cameras).
        points: For each of two points, (column, row) by image (points).
    """

    form: str
    text: str
    length: float = math.nan
    names: tuple[str, ...] = ()
    points: tuple[dict[str, Array], ...] = ()


def parse_measure(text: str) -> Measure:
    """Parses the value of one ``--scale_by``.

    Raises:
        InputError: None of `FORMS`, a length that is not positive, or a file without two points.
        MissingInputError: No such file.
    """
    flag, (form, _, rest) = f"--scale_by {text}", text.partition(":")
    if form == "gps" and text == form:
        return Measure(form, text)
    if form == "board" and (text == form or rest):
        side = _number(rest, flag) if rest else board.SETTINGS.side
        board.check_side(side, flag)
        return Measure(form, text, side)
    if form == "cameras" and (match := re.fullmatch(r"([^,]+),([^,]+)=([^=]*)", rest)):
        names = (match[1].strip(), match[2].strip())
        if names[0] == names[1]:
            raise InputError(f"{flag}: expected two different images")
        return Measure(form, text, _number(match[3], flag), names)
    if form == "points" and rest:
        return _read_points(Path(rest).expanduser(), text)
    raise InputError(f"{flag}: expected {FORMS}")


def _number(text: str, flag: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not SHORTEST <= number <= LONGEST:
        raise InputError(f"{flag}: got the length {text!r}; {LENGTH}")
    return number


def _read_points(path: Path, text: str) -> Measure:
    if not os.path.isfile(path):  # unlike Path.is_file, False for names that are too long
        raise MissingInputError(f"--scale_by {text}: no file {path}; expected a JSON file: {POINTS_FORM}")
    try:
        content: Any = read_json(path)
        meters, points = content["meters"], [dict(point) for point in content["points"]]
        pixels = [{str(n): np.array(uv, dtype=np.float64) for n, uv in point.items()} for point in points]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not as expected ({error!r}); expected {POINTS_FORM}") from error
    if not is_number(meters) or not SHORTEST <= meters <= LONGEST:
        raise InputError(f"{path}: meters is {meters!r}; {LENGTH}")
    if len(pixels) != 2 or any(len(point) < 2 for point in pixels):
        seen = " and ".join(str(len(point)) for point in pixels)
        raise InputError(
            f"{path} has {len(pixels)} points, marked in {seen or 0} images; expected two points, each in "
            f"two or more images: {POINTS_FORM}"
        )
    for name, uv in (pair for point in pixels for pair in point.items()):
        if uv.shape != (2,) or not np.isfinite(uv).all():
            raise InputError(f"{path}: the pixel in {name} is {uv.tolist()}; expected [column, row]")
    return Measure("points", text, float(meters), points=tuple(pixels))


def to_meters(source: Source, measures: list[Measure], folder: Path, progress: Progress) -> Source:
    """Returns the source in meters: cameras, points and sphere.

    Args:
        source: The source.
        measures: One or more; the first counts, the others must agree with it.
        folder: Folder of the original photographs, which have the GPS data.
        progress: Receives a line for each measure.

    Raises:
        InputError: A measure cannot be used, is too uncertain, or contradicts the first.
    """
    shots = shots_of(source)
    sizes = [_evaluate(measure, source, shots, folder, progress) for measure in measures]
    first = sizes[0]
    for measure, size in zip(measures, sizes, strict=True):
        error = "" if size.relative_error is None else f", error {size.relative_error:.2%}"
        unit = size.meters_per_unit
        progress(f"true size: the unit of the source is {unit:.6g} m, from {size.origin}{error}")
        ratio = unit / first.meters_per_unit
        errors = [each.relative_error or 0.0 for each in (first, size)]
        if abs(math.log(ratio)) > max(MAX_ERROR, 3 * math.hypot(*errors)):
            raise InputError(
                f"--scale_by {measure.text} makes the scene {ratio:.3g} times as large as --scale_by "
                f"{measures[0].text}; expected measures that agree: measure both again, in particular the "
                "printed square with a ruler (printers shrink pages to fit), or leave the wrong one out"
            )
    return scaled(source, first)


def scaled(source: Source, size: TrueSize) -> Source:
    """Returns the source in meters."""
    factor = size.meters_per_unit
    views = []
    for view in source.views:
        moved = view.world_to_camera.copy()
        moved[:, 3] *= factor
        views.append(replace(view, world_to_camera=moved))
    points = None if source.points is None else source.points * factor
    scale_mat = None if source.scale_mat is None else np.diag([factor, factor, factor, 1]) @ source.scale_mat
    return replace(source, views=tuple(views), points=points, scale_mat=scale_mat, true_size=size)


def _evaluate(
    measure: Measure, source: Source, shots: list[Shot], folder: Path, progress: Progress
) -> TrueSize:
    centers = np.stack(
        [-view.world_to_camera[:, :3].T @ view.world_to_camera[:, 3] for view in source.views]
    )
    if measure.form == "board":
        fit = board.find_board(shots, measure.length, progress)
        where = f"{fit.num_corners} corners in {fit.num_views} photographs"
        origin = f"the board with squares of {measure.length:g} mm ({where})"
        ground = (*map(float, fit.up), fit.height / fit.unit_per_meter)
        return _checked(TrueSize(1 / fit.unit_per_meter, fit.relative_error, origin, ground), measure)
    if measure.form == "gps":
        own = {path.name: path for path in find_photographs(folder)} if source.kind == KIND else {}
        unit, error, count = gps.unit_in_meters(centers, [own.get(v.name, v.image) for v in source.views])
        return TrueSize(unit, error, f"GPS positions of {count} photographs, rough")
    if measure.form == "cameras":
        return _from_cameras(measure, shots, centers)
    return _checked(_from_points(measure, shots), measure)


def _checked(size: TrueSize, measure: Measure) -> TrueSize:
    if size.relative_error is not None and not size.relative_error <= MAX_ERROR:
        raise InputError(
            f"--scale_by {measure.text}: the photographs determine the length only to "
            f"{size.relative_error:.0%}; expected {MAX_ERROR:.0%} or better: use photographs from more "
            "different directions, a longer distance or a larger board"
        )
    return size


def _from_cameras(measure: Measure, shots: list[Shot], centers: Array) -> TrueSize:
    one, two = (centers[_find(name, shots, measure)] for name in measure.names)
    distance = float(np.linalg.norm(one - two))
    if distance <= 1e-6 * np.ptp(centers, axis=0).max():
        raise InputError(f"--scale_by {measure.text}: both cameras are at one place; expected two places")
    names = " and ".join(measure.names)
    return TrueSize(measure.length / distance, None, f"the distance of the cameras of {names}")


def _from_points(measure: Measure, shots: list[Shot]) -> TrueSize:
    found, residuals = [], []
    for number, point in enumerate(measure.points, 1):
        seen = [shots[_find(name, shots, measure)] for name in point]
        for shot, (name, (column, row)) in zip(seen, point.items(), strict=True):
            if not (-0.5 <= column <= shot.size[1] - 0.5 and -0.5 <= row <= shot.size[0] - 0.5):
                raise InputError(
                    f"--scale_by {measure.text}: pixel [{column:g}, {row:g}] lies outside of {name}, which "
                    f"has {shot.size[1]} x {shot.size[0]} pixels; expected [column, row]"
                )
        pairs = zip(seen, point.values(), strict=True)
        pixels = np.concatenate([shot.pinhole_pixels(uv[None]) for shot, uv in pairs])
        bad = not np.isfinite(pixels).all()
        place = None if bad else triangulate(pixels, np.stack([shot.projection for shot in seen]))
        if place is None:
            raise InputError(
                f"--scale_by {measure.text}: the lines of sight to point {number} do not meet before the "
                "cameras; expected pixels, [column, row], of one point in images from different directions"
            )
        found.append(place)
        residuals.append(float(np.abs(place.residuals).max() / max(shot.size[0] for shot in seen)))
    if max(residuals) > MAX_MISS:
        raise InputError(
            f"--scale_by {measure.text}: point {1 + int(np.argmax(residuals))} misses its pixels by "
            f"{max(residuals):.0%} of the image; expected the same point in each image, as [column, row]"
        )
    apart = found[1].point - found[0].point
    distance = float(np.linalg.norm(apart))
    every = np.concatenate([place.residuals.ravel() for place in found])
    sigma = max(CLICK, float(np.sqrt((every**2).sum() / max(len(every) - 6, 1))))
    direction = apart / max(distance, 1e-300)
    error = sigma * math.sqrt(direction @ (found[0].covariance + found[1].covariance) @ direction)
    relative = error / max(distance, 1e-300)
    origin = f"two points {measure.length:g} m apart"
    return TrueSize(measure.length / max(distance, 1e-300), relative, origin)


def _find(name: str, shots: list[Shot], measure: Measure) -> int:
    """Returns the number of the view that the user names: by its name, its last part, or without ending."""
    names = [shot.view.name for shot in shots]
    last = [PureWindowsPath(each).name for each in names]
    for known in (names, last, [Path(each).stem for each in last]):
        found = [k for k, each in enumerate(known) if each == name]
        if len(found) == 1:
            return found[0]
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise InputError(
        f"--scale_by {measure.text}: no image {name} among the {len(names)} with cameras; expected one of "
        f"{listed} (a photograph that could not be registered has no camera)"
    )
