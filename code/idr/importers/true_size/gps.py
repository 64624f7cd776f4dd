"""Camera positions from the GPS data of photographs.

B photographs. Positions are in meters, earth-centered (WGS 84): a fit of a similarity needs no local axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from idr.datasets.image_files import decoder_errors, open_image
from idr.errors import InputError
from idr.geometry.alignment import fit_similarity
from idr.importers.source import Array

GPS_BLOCK = 0x8825
LATITUDE, LONGITUDE, ALTITUDE = (1, 2, "S"), (3, 4, "W"), (5, 6, 1)
"""EXIF's tags of the sign and the value, and the negative sign."""
SEMI_MAJOR, FLATTENING = 6378137.0, 1 / 298.257223563
MIN_SPREAD = 20.0
"""Meters that the positions must span: the error of a phone's GPS is 5 to 10 m."""
MIN_PHOTOGRAPHS = 4
MAX_ERROR = 0.3
"""Largest relative standard error of the scale."""
OTHERWISE = "give a length with --scale_by board or cameras:..."


def unit_in_meters(centers: Array, files: list[Path]) -> tuple[float, float, int]:
    """Fits camera centers to the photographs' GPS positions.

    Args:
        centers: (B, 3) camera centers in the source's unit.
        files: (B) their photographs, with EXIF data.

    Returns:
        The unit in meters, its relative standard error, and the number of photographs with a position.

    Raises:
        InputError: Too few positions, within the error of GPS, or they do not fit the cameras.
    """
    tags = [_gps_tags(path) for path in files]
    use_altitude = all(_value(block, *ALTITUDE) is not None for block in tags if block)
    positions = [_position(block, use_altitude) for block in tags]
    have = [k for k, position in enumerate(positions) if position is not None]
    if len(have) < MIN_PHOTOGRAPHS:
        raise InputError(
            f"--scale_by gps: {len(have)} of {len(files)} photographs have a GPS position; expected at least "
            f"{MIN_PHOTOGRAPHS}: use the original files, or {OTHERWISE}"
        )
    there = np.stack([positions[k] for k in have])  # type: ignore[misc]
    spread = float(np.linalg.norm(there[:, None] - there, axis=-1).max())
    if spread < MIN_SPREAD:
        raise InputError(
            f"--scale_by gps: the positions span {spread:.1f} m; expected at least {MIN_SPREAD:g} m, as GPS "
            f"errs by 5 to 10 m: {OTHERWISE}"
        )
    fit = fit_similarity(centers[have], there - there.mean(axis=0))
    moved = fit.scale * centers[have] @ fit.rotation.T + fit.translation
    variance = ((there - there.mean(axis=0) - moved) ** 2).sum() / (3 * len(have) - 7)
    size = np.linalg.norm(fit.scale * (centers[have] - centers[have].mean(axis=0)))
    error = float(np.sqrt(variance) / size) if size > 0 else math.inf
    if not error <= MAX_ERROR:
        raise InputError(
            f"--scale_by gps: the positions fit the cameras with an error of the scale of {error:.0%}; "
            f"expected at most {MAX_ERROR:.0%}: {OTHERWISE}"
        )
    return fit.scale, error, len(have)


def _gps_tags(path: Path) -> Mapping[int, Any]:
    with decoder_errors(path), open_image(path) as image, suppress(Exception):  # any kind, on broken data
        return dict(image.getexif().get_ifd(GPS_BLOCK))
    return {}


def _value(tags: Mapping[int, Any], sign: int, value: int, negative: object) -> float | None:
    """Degrees, or meters of altitude; None if missing or broken."""
    try:
        found = tags[value]
        parts = [float(part) for part in (found if isinstance(found, (tuple, list)) else [found])]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    number = sum(part / 60**k for k, part in enumerate(parts))
    mark = tags.get(sign)
    mark = mark[0] if isinstance(mark, bytes) and mark and isinstance(negative, int) else mark
    return (-number if mark == negative else number) if math.isfinite(number) else None


def _position(tags: Mapping[int, Any], use_altitude: bool) -> Array | None:
    """(3,) meters from the earth's center; None without a position."""
    latitude, longitude = _value(tags, *LATITUDE), _value(tags, *LONGITUDE)
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    height = (_value(tags, *ALTITUDE) or 0.0) if use_altitude else 0.0
    north, east = math.radians(latitude), math.radians(longitude)
    squared = FLATTENING * (2 - FLATTENING)  # eccentricity
    normal = SEMI_MAJOR / math.sqrt(1 - squared * math.sin(north) ** 2)
    across = (normal + height) * math.cos(north)
    up = (normal * (1 - squared) + height) * math.sin(north)
    return np.array([across * math.cos(east), across * math.sin(east), up])
