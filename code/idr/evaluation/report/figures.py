"""Data of a run's report: training curves, paths of trained cameras.

B images, T checkpoints. Unit-sphere coordinates.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idr.pictures.curves import Diagram, diagram
from idr.runs import Run
from idr.runs.checkpoint import read_poses
from idr.runs.folders import CHECKPOINTS, CheckpointFolder, read_metrics

CURVES = {
    "Loss (weighted sum and its terms; logarithmic)": ("loss", "*_loss"),
    "PSNR of rays that hit (dB)": ("psnr",),
    "Cameras: mean rotation error (degrees)": ("camera_rotation_degrees",),
    "Cameras: mean center error (world units)": ("camera_center",),
    "Cameras: trained focal length over the given (ratio)": ("focal_factor",),
}
"""Columns of ``metrics.csv``, as patterns, by title of the diagram."""
NAMES = {"loss": "weighted sum", "psnr": "PSNR"}
"""Names of columns, besides those that their own words tell."""

START, END, GIVEN, PATH = "#d9822b", "#2266cc", "#3a9d5d", "#999999"


def metric_columns(path: Path) -> dict[str, NDArray[np.float64]]:
    """Returns the columns of ``metrics.csv``, NaN for an empty cell; empty without the file."""
    rows = read_metrics(path)
    columns = list(rows[0]) if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}


def training_curves(metrics: dict[str, NDArray[np.float64]]) -> list[Diagram]:
    """Returns the training curves, a diagram per entry of `CURVES` of which there are values."""
    found = []
    for title, patterns in CURVES.items():
        columns = [column for pattern in patterns for column in fnmatch.filter(metrics, pattern)]
        named = {NAMES.get(column, column.replace("_", " ")): metrics[column] for column in columns}
        if named:
            found.append(diagram(title, metrics["epoch"], named, logarithmic=title.startswith("Loss")))
    return [each for each in found if each is not None]


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
