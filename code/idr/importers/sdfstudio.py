"""Reads `meta_data.json` of sdfstudio, which also holds scenes of MonoSDF.

Cameras have OpenCV axes and map camera to world; the first pixel's center is at 0. `worldtogt` maps the world
to the frame of the ground truth, in which the scene is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from idr.errors import MissingInputError
from idr.importers.source import (
    Array,
    Source,
    SourceView,
    centered_intrinsics,
    check_rotation,
    find_image,
    missing_images,
    other_endings,
    required_image,
    unscaled,
    view_key,
)
from idr.importers.transforms import frames_of, load, matrix_of, merged, size_of

NAME = "meta_data.json"
PIXEL_CENTER = 0.0
SQUARE = ((4, 4), (3, 4))


def find_file(source: Path) -> Path | None:
    """Returns the JSON file of a folder (or the file itself), or None."""
    path = source if source.is_file() else source / NAME
    return path if path.name == NAME and path.is_file() else None


def read(source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads a `meta_data.json`, or the one in a folder; see `source.Reader`."""
    path = find_file(source)
    if path is None:
        raise MissingInputError(f"no {NAME} in {source}")
    content = load(path)
    frames = frames_of(path, content, "rgb_path", "sdfstudio")
    to_truth = np.eye(4)
    if content.get("worldtogt") is not None:
        to_truth = matrix_of(content["worldtogt"], ((4, 4),), f"{path}: worldtogt")
    size = size_of({"h": content.get("height"), "w": content.get("width")}, str(path))
    views: list[SourceView] = []
    missing: list[str] = []
    for label, frame, name in frames:
        image = find_image(name, path.parent, images, label)
        if image is None:
            missing.append(name)
            continue
        camera = merged(content, frame)
        k_matrix = matrix_of(camera.get("intrinsics"), ((3, 3), *SQUARE), f"{label}: intrinsics")
        k_matrix = centered_intrinsics(k_matrix[:3, :3], pixel_center, label)
        mask = _mask(camera, path.parent, label)
        views.append(SourceView(name, image, k_matrix, _pose(camera, to_truth, label), None, size, mask))
    notes = missing_images(missing, len(content["frames"]), str(path)) + other_endings(views)
    if not np.array_equal(to_truth, np.eye(4)):
        notes += ("cameras moved by worldtogt to the frame of the ground truth",)
    return Source("sdfstudio", tuple(sorted(views, key=lambda view: view_key(view.name))), notes=notes)


def _pose(camera: Mapping[str, Any], to_truth: Array, label: str) -> Array:
    """(3, 4) [R | t] from `camtoworld`, in the frame of the ground truth."""
    matrix = matrix_of(camera.get("camtoworld"), SQUARE, f"{label}: camtoworld")
    pose = to_truth @ np.vstack([matrix[:3], [0.0, 0.0, 0.0, 1.0]])
    axes, _ = unscaled(pose[:3, :3])
    check_rotation(axes, f"{label}: the rotation of camtoworld")
    return np.column_stack([axes.T, -axes.T @ pose[:3, 3]])


def _mask(camera: Mapping[str, Any], folder: Path, label: str) -> Path | None:
    name = camera.get("foreground_mask")
    return required_image(name, folder, label) if isinstance(name, str) else None
