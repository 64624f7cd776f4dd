"""Surfaces and cameras as 3D plotly figures.

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
EYE_ASIDE, EYE_ABOVE = 1.6, 0.9
"""Initial eye position in plotly's unit, about half the figure's extent."""


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


def space_figure(traces: Sequence[Any], poses: NDArray[np.float64] | None = None) -> Any:
    """Returns a 3D plotly figure with hidden axes of equal scale.

    The legend is at the left because plotly's tool bar covers the upper right corner. The up direction is
    that of poses around the origin, (B, 4, 4), or else the third axis.
    """
    import plotly.graph_objects as go

    axis = {"visible": False}
    scene: dict[str, Any] = {"aspectmode": "data", "xaxis": axis, "yaxis": axis, "zaxis": axis}
    if poses is not None:
        scene["camera"] = _seen_upright(poses)
    margin = {"l": 0, "r": 0, "b": 0, "t": 0}
    legend = {"x": 0.01, "xanchor": "left", "y": 0.99, "yanchor": "top", "bgcolor": "rgba(255,255,255,0.7)"}
    legend["itemsizing"] = "constant"
    return go.Figure(list(traces), {"scene": scene, "height": 520, "margin": margin, "legend": legend})


def _seen_upright(poses: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Returns plotly's camera: up is the mean up of the cameras, the eye is above the first camera."""
    mean = -poses[:, :3, 1].mean(axis=0)
    length = np.linalg.norm(mean)
    up = mean / length if length > 1e-6 else -poses[0, :3, 1]  # the ups cancel: use the first one
    aside = poses[0, :3, 3] - up * (up @ poses[0, :3, 3])
    distance = np.linalg.norm(aside)
    # The first camera is right above: its own x axis is a direction aside.
    aside = aside / distance if distance > 1e-6 else poses[0, :3, 0]
    eye = EYE_ASIDE * aside + EYE_ABOVE * up
    return {name: dict(zip("xyz", map(float, v), strict=True)) for name, v in (("up", up), ("eye", eye))}


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
