"""Figures of a run's report: training curves, the surface with cameras, paths of trained cameras.

B images, T checkpoints. Unit-sphere coordinates.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idr.pictures.space import camera_traces, mesh_trace, polyline, space_figure
from idr.runs import Run
from idr.runs.checkpoint import read_poses
from idr.runs.folders import CHECKPOINTS, CheckpointFolder, read_metrics
from idr.runs.views import image_numbers

CURVES = {
    "losses": ("loss", "*_loss"),
    "PSNR (dB), rays of the epoch": ("psnr",),
    "cameras: mean rotation error (degrees)": ("camera_rotation_degrees",),
    "cameras: mean center error (world units)": ("camera_center",),
    "cameras: trained focal length over the given": ("focal_factor",),
}
"""Columns of ``metrics.csv``, as patterns, by title of the diagram."""

START, END, GIVEN, PATH = "#d9822b", "#2266cc", "#3a9d5d", "#999999"


def metric_columns(path: Path) -> dict[str, NDArray[np.float64]]:
    """Returns the columns of ``metrics.csv``, NaN for an empty cell; empty without the file."""
    rows = read_metrics(path)
    columns = list(rows[0]) if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}


def curves_figure(metrics: dict[str, NDArray[np.float64]]) -> Any | None:
    """Returns the training curves, one diagram per entry of `CURVES`; None without any."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = {
        title: [column for pattern in patterns for column in fnmatch.filter(metrics, pattern)]
        for title, patterns in CURVES.items()
    }
    shown = {title: columns for title, columns in shown.items() if columns}
    if not shown:
        return None
    figure = make_subplots(rows=(len(shown) + 1) // 2, cols=2, subplot_titles=list(shown))
    for number, (title, names) in enumerate(shown.items()):
        place = {"row": number // 2 + 1, "col": number % 2 + 1}
        for name in names:
            line = go.Scatter(x=metrics["epoch"], y=metrics[name], name=name, mode="lines")
            figure.add_trace(line, **place)
        figure.update_xaxes(title_text="epoch", **place)
        if title == "losses":
            figure.update_yaxes(type="log", **place)
    figure.update_layout(height=340 * ((len(shown) + 1) // 2), margin={"l": 40, "r": 10, "b": 40, "t": 40})
    return figure


def surface_with_cameras(run: Run, mesh: Any | None) -> Any:
    """Returns a figure of the surface and the training cameras."""
    traces = [] if mesh is None else [mesh_trace(mesh)]
    poses = run.training_poses.double().numpy()
    numbers = [f"view {number}" for number in image_numbers(run.scene)]
    traces += camera_traces(poses, numbers, "cameras", END)
    return space_figure(traces, poses)


def camera_paths(run: Run) -> NDArray[np.float64] | None:
    """Returns the trained camera-to-world poses of all checkpoints, (T, B, 4, 4), oldest first.

    None if fewer than two checkpoints hold cameras.
    """
    folder = CheckpointFolder(run.folder / CHECKPOINTS)
    names = [name for name in folder.names() if folder.has("CamParameters", name)]
    names.sort(key=folder.position_of)
    if len(names) < 2:
        return None
    tables = [read_poses(folder.load("CamParameters", name), f"checkpoint {name}") for name in names]
    return np.stack([poses.double().numpy() for poses in tables])


def paths_figure(run: Run, paths: NDArray[np.float64]) -> Any:
    """Returns a figure of the `camera_paths` of a run, with the aligned given cameras."""
    import plotly.graph_objects as go

    numbers = [f"view {number}" for number in image_numbers(run.scene)]
    traces = camera_traces(paths[0], numbers, "first checkpoint", START)
    traces += camera_traces(paths[-1], numbers, "last checkpoint", END)
    traces += camera_traces(run.given_poses.double().numpy(), numbers, "given, aligned", GIVEN)
    centers = paths[:, :, :3, 3].transpose(1, 0, 2)  # (B, T, 3)
    x, y, z = polyline(centers)
    traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line={"color": PATH, "width": 3}, name="way"))
    return space_figure(traces, paths[-1])
