"""Surfaces and cameras as plotly traces, for the surface plots of training.

B cameras, T points of a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

AXIS_LENGTH = 0.25
"""Length of the line along a camera's optical axis, unit-sphere units."""


def mesh_trace(mesh: trimesh.Trimesh, name: str = "") -> Any:
    """Returns a mesh as a plotly trace; a name puts it into the legend."""
    import plotly.graph_objects as go  # half a second: only where a figure is drawn

    # float32 halves the page; its digits are more than a screen shows.
    x, y, z = np.asarray(mesh.vertices, dtype=np.float32).T
    i, j, k = np.asarray(mesh.faces, dtype=np.int32).T
    lighting = {"ambient": 0.4, "diffuse": 0.8, "specular": 0.3, "roughness": 0.5}
    return go.Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k, color="#c9b79c", lighting=lighting,
        hoverinfo="name" if name else "skip", name=name or None, showlegend=bool(name),
    )  # fmt: skip


def camera_traces(poses: NDArray[np.float64], texts: Sequence[str], name: str, color: str) -> list[Any]:
    """Returns two plotly traces: camera centers, with B texts shown on hover, and a line along each axis.

    The poses are (B, 4, 4) camera-to-world with OpenCV axes, the color is CSS's.
    """
    import plotly.graph_objects as go

    centers, forward = poses[:, :3, 3], poses[:, :3, 2]
    x, y, z = centers.astype(np.float32).T
    points = go.Scatter3d(
        x=x, y=y, z=z, mode="markers", text=list(texts), hoverinfo="text+name", name=name,
        marker={"size": 4, "color": color},
    )  # fmt: skip
    x, y, z = polyline(np.stack((centers, centers + AXIS_LENGTH * forward), axis=1))
    line = {"color": color, "width": 3}
    axes = go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    return [points, axes]


def polyline(lines: NDArray[np.float64]) -> NDArray[np.float32]:
    """Returns B lines, (B, T, 3), as the coordinates of one trace, (3, B (T + 1)), separated by NaN."""
    gaps = np.full((len(lines), 1, 3), np.nan)
    return np.concatenate((lines, gaps), axis=1).reshape(-1, 3).T.astype(np.float32)
