"""What the record of an imported scene, ``import.json`` in its folder, says of its source and its true size.

N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.files import is_number, read_json
from idr.places import title_of

RECORD = "import.json"
"""What an import says of the scene that it wrote, in the scene's folder."""


@dataclass(frozen=True)
class TrueSize:
    """Length of a source's unit.

    Attributes:
        meters_per_unit: Factor from the source's unit to meters.
        relative_error: Its relative standard error, without that of the user's measurement; None if unknown.
        origin: What it was computed from.
        ground: Plane of the printed board in meters: its unit normal, which points up, and the product of the
            normal with the plane's points. None without a board.
    """

    meters_per_unit: float
    relative_error: float | None
    origin: str
    ground: tuple[float, ...] | None = None

    def of_box(self, points: NDArray[np.floating]) -> str:
        """Returns the sides of the tightest box around points, (N, 3) in meters, in words."""
        from trimesh.bounds import oriented_bounds

        sides = sorted(np.asarray(oriented_bounds(points)[1]).tolist(), reverse=True)
        units = (("m", 1.0, 1.0), ("cm", 100.0, 0.01), ("mm", 1000.0, 0.0))
        unit, factor = next((unit, factor) for unit, factor, least in units if sides[0] >= least)
        error = "" if self.relative_error is None else f" +- {self.relative_error:.2%}"
        return f"{' x '.join(f'{factor * side:.4g}' for side in sides)} {unit}{error}, by {self.origin}"


def read_true_size(scene: Path) -> TrueSize | None:
    """Reads from the record of an imported scene that its unit is the meter; None if it does not say so.

    Raises:
        InputError: The record is damaged.
    """
    path = scene / RECORD
    try:
        record = read_json(path)
        if not isinstance(record, dict) or record.get("unit") != "m":
            return None
        size = record["true_size"]
        error, origin, ground = size["relative_error"], size["origin"], size.get("ground")
        plane = None if ground is None else tuple(float(value) for value in ground)
        if plane is not None and not (len(plane) == 4 and all(map(is_number, plane)) and any(plane[:3])):
            raise ValueError("ground is no plane")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise InputError(
            f"{path} cannot be read ({failure!r}); import the scene again, or move this file away"
        ) from failure
    return TrueSize(1.0, float(error) if is_number(error) else None, str(origin), plane)


def title_of_scene(scene: Path) -> str:
    """Returns the title of pages about a scene: the name of the imported folder, else of its own."""
    source, scene = recorded_source(scene), scene.resolve()
    return f"{scene.parent.name}/{scene.name}" if source is None else title_of(Path(source))


def recorded_source(scene: Path) -> str | None:
    """Returns the source of an imported scene, from its record; None without one."""
    try:
        return str(read_json(scene / RECORD)["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
