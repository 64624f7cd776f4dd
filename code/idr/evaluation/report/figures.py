"""What a run's report draws: curves of ``metrics.csv``, the surface with cameras, where cameras went.

B images, T checkpoints. All coordinates are those of the unit sphere.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from idr.evaluation.reconstruction import poses_to_model_frame
from idr.geometry.cameras import pose_matrix
from idr.pictures.space import camera_traces, mesh_trace, polyline, space_figure
from idr.runs.api import LoadedRun
from idr.runs.folders import CHECKPOINTS, CheckpointFolder
from idr.runs.opened import image_numbers

CURVES = {
    "losses": ("loss", "rgb_loss", "eikonal_loss", "mask_loss"),
    "PSNR (dB), rays of the epoch": ("psnr",),
    "cameras: mean rotation error (degrees)": ("camera_rotation_degrees",),
    "cameras: mean center error (world units)": ("camera_center",),
    "cameras: trained focal length over the given": ("focal_factor",),
}
"""Title of each diagram, and the columns of ``metrics.csv`` in it."""

START, END, GIVEN, PATH = "#d9822b", "#2266cc", "#3a9d5d", "#999999"


def read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """Reads ``metrics.csv``.

    Args:
        path: The file; published runs have none.

    Returns:
        By column, one number an epoch, NaN where a cell is empty; nothing without a file.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0]) if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}


def curves_figure(metrics: dict[str, NDArray[np.float64]]) -> Any | None:
    """Draws the curves of training, one diagram a kind; None without any."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = {title: [c for c in columns if c in metrics] for title, columns in CURVES.items()}
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


def surface_with_cameras(run: LoadedRun, mesh: Any | None) -> Any:
    """Draws the surface and the training cameras, each with a line along its optical axis."""
    traces = [] if mesh is None else [mesh_trace(mesh)]
    poses = run.scene.training_poses.double().numpy()
    numbers = [f"view {number}" for number in image_numbers(run.scene.dataset)]
    traces += camera_traces(poses, numbers, "cameras", END)
    return space_figure(traces, poses)


def camera_paths(run: LoadedRun) -> NDArray[np.float64] | None:
    """Returns where the trained cameras stood at each checkpoint.

    Returns:
        (T, B, 4, 4) camera-to-world, oldest first; None where fewer than two checkpoints hold cameras.
    """
    folder = CheckpointFolder(run.folder / CHECKPOINTS)
    names = sorted(
        (name for name in folder.names() if folder.has("CamParameters", name)), key=folder.position_of
    )
    vectors = [folder.load("CamParameters", name)["pose_vecs_state_dict"]["weight"] for name in names]
    if len(vectors) < 2:
        return None
    return torch.stack([pose_matrix(vector.float()) for vector in vectors]).double().numpy()


def paths_figure(run: LoadedRun, paths: NDArray[np.float64]) -> Any:
    """Draws each camera's way from the first checkpoint to the last, and where the given cameras stand.

    Args:
        run: The run, its cameras trained.
        paths: What `camera_paths` returned.
    """
    import plotly.graph_objects as go

    numbers = [f"view {number}" for number in image_numbers(run.scene.dataset)]
    scene = run.scene
    traces = camera_traces(paths[0], numbers, "first checkpoint", START)
    traces += camera_traces(paths[-1], numbers, "last checkpoint", END)
    if scene.alignment is not None:
        given = np.asarray(scene.dataset.get_gt_pose(scaled=False), dtype=np.float64)
        traces += camera_traces(
            poses_to_model_frame(given, scene.alignment), numbers, "given, aligned", GIVEN
        )
    centers = paths[:, :, :3, 3].transpose(1, 0, 2)  # (B, T, 3)
    x, y, z = polyline(centers)
    traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", line={"color": PATH, "width": 3}, name="way"))
    return space_figure(traces, paths[-1])
