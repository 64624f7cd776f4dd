"""Meshes and lines that a reader of a page turns, drawn by WebGL without further scripts.

V vertices, T faces, S line segments. The axes are glTF's: y is up, the viewer is on +z.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from idr.pictures.page import TEMPLATES, render_part

Array = NDArray[np.floating]

FRUSTUM_DEPTH = 0.12
"""Distance from a camera's center to its image, unit-sphere units."""


@dataclass(frozen=True)
class Body:
    """A mesh: (V, 3) vertices and unit normals, (T, 3) faces, and (V, 3) sRGB colors in [0, 1] or None."""

    name: str
    vertices: Array
    faces: NDArray[np.integer]
    normals: Array
    colors: Array | None = None


@dataclass(frozen=True)
class Lines:
    """Line segments, (S, 2, 3), in a color such as #2266cc, with a name to switch them on and off."""

    name: str
    color: str
    segments: Array
    on: bool = False


def turntable(bodies: Sequence[Body], lines: Sequence[Lines] = (), yaw: float = 0.4) -> Markup:
    """Returns HTML that shows one body at a time and the lines that the reader switches on.

    Bodies are centered and scaled to radius 1, positions in steps of 2^-15 and colors of 8 bits, so that a
    page stays small. `yaw` is the initial angle around the up axis, radians.
    """
    points = np.concatenate([body.vertices for body in bodies] or [np.zeros((1, 3))])
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = float(np.linalg.norm(points - center, axis=1).max()) or 1.0
    shown = [_body(body, (body.vertices - center) / radius) for body in bodies]
    drawn = [_lines(line, (line.segments - center) / radius) for line in lines if len(line.segments)]
    script = Markup((TEMPLATES / "turntable.js").read_text(encoding="utf-8"))
    return render_part("turntable", {"bodies": shown, "lines": drawn, "yaw": yaw}, script)


def _body(body: Body, points: Array) -> dict[str, Any]:
    wide = len(points) > 2**16
    return {
        "name": body.name,
        "points": _base64(np.round(points * 32767), "<i2"),
        "normals": _base64(np.round(np.clip(body.normals, -1, 1) * 127), "i1"),
        "colors": None if body.colors is None else _base64(np.round(np.clip(body.colors, 0, 1) * 255), "u1"),
        "faces": _base64(body.faces, "<u4" if wide else "<u2"),
        "wide": wide,
    }


def _lines(line: Lines, segments: Array) -> dict[str, Any]:
    shown = {"name": line.name, "color": line.color, "on": line.on, "points": _base64(segments, "<f4")}
    return {**shown, "reach": float(np.linalg.norm(segments, axis=-1).max())}


def _base64(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def frustums(poses: Array, aspect: float = 4 / 3) -> Array:
    """Returns the edges, (8 B, 2, 3), of pyramids for B cameras, (B, 4, 4) camera-to-world, OpenCV axes."""
    x, y = 0.45 * FRUSTUM_DEPTH * aspect, 0.45 * FRUSTUM_DEPTH
    corners = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
    image = np.column_stack((corners, np.full(4, FRUSTUM_DEPTH)))
    edges = np.concatenate(
        (np.stack((np.zeros((4, 3)), image), axis=1), np.stack((image, np.roll(image, -1, axis=0)), axis=1))
    )  # (8, 2, 3)
    placed = np.einsum("bij,ekj->beki", poses[:, :3, :3], edges) + poses[:, None, None, :3, 3]
    return placed.reshape(-1, 2, 3)
