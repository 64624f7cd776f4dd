"""Reads COLMAP models, binary or text, through `pycolmap`.

COLMAP puts the first pixel's center at (0.5, 0.5) and uses OpenCV axes. All of its camera models except the
spherical one are supported; pycolmap itself evaluates their distortion.
"""

from __future__ import annotations

import copy
import signal
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from idr.errors import InputError, MissingInputError
from idr.importers.colmap_files import count_images, find_models, stage
from idr.importers.points import MIN_POINTS
from idr.importers.source import (
    Array,
    Lens,
    Source,
    SourceView,
    centered_intrinsics,
    find_image,
    missing_images,
    other_endings,
    view_key,
)

IMAGE_FOLDERS = (
    *("images", "image", "../images", "../image", "../../images", "../../image", "../../../images"),
    "../photographs",  # next to a model of our own reconstruction
)
PIXEL_CENTER = 0.5
MIN_TRACK_LENGTH = 3
"""Images that must see a point for it to count as reliable, if enough points are seen that often."""


def import_pycolmap() -> Any:
    """Imports pycolmap, or names the install command.

    The first import installs handlers of its logging library (glog) for SIGTERM and crashes, with no option
    to prevent it: a plain ``kill`` would end in a native stack trace. Python's handler for SIGTERM is
    restored; glog keeps those for crashes, whose trace is useful.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap
    except ImportError as error:
        raise MissingInputError(
            "reading COLMAP models needs pycolmap, which is not installed: pip install 'idr-surface[colmap]'"
        ) from error
    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
    return pycolmap


def read(source: Path, images: Path | None, pixel_center: float) -> Source:
    """Reads a COLMAP model in `source` or in one of `MODEL_FOLDERS` below it; see `source.Reader`.

    The scene has the images that the model registered, in natural name order. Of several models next to each
    other (sparse/0, sparse/1), the one with most images is read.

    Raises:
        MissingInputError: pycolmap, the model or most images are missing.
        InputError: The model cannot be read, is empty, or has a spherical camera.
    """
    pycolmap = import_pycolmap()
    models = find_models(source)
    if not models:
        raise MissingInputError(f"no COLMAP model (cameras and images, .bin or .txt) in {source}")
    folder, others = models[0], models[1:]
    with tempfile.TemporaryDirectory(prefix="idr_colmap_") as staged:
        names = stage(folder, Path(staged))
        try:
            model = pycolmap.Reconstruction(staged)
        except Exception as error:  # C++ exceptions of many kinds
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            reason = reason.replace(staged, str(folder))
            raise InputError(
                f"{folder} cannot be read as a COLMAP model ({reason}); export it again"
            ) from error
    images = images or next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise MissingInputError(f"no folder images/ near the COLMAP model {folder}; pass it with --images")
    scene = from_model(model, images, str(folder), pixel_center, names)
    if not others:
        return scene
    counts = ", ".join(f"{other.name} with {count_images(other)}" for other in others)
    note = (
        f"read {folder}, the model with most images ({count_images(folder)}); its neighbors, in other world "
        f"frames: {counts}; pass one of them as SOURCE to read it"
    )
    return replace(scene, notes=(*scene.notes, note))


def from_model(
    model: Any,
    images: Path,
    label: str,
    pixel_center: float = PIXEL_CENTER,
    names: Mapping[int, str] | None = None,
) -> Source:
    """Makes a scene from a `pycolmap.Reconstruction`; `label` is the model's name in messages.

    The model's image names are relative to `images`, and its first pixel's center is at `pixel_center`.
    `names` are the names by number, where the model's may be cut off.

    Raises:
        MissingInputError: Most images are missing.
        InputError: No image is registered, or a camera is spherical.
    """
    registered = [model.images[i] for i in model.reg_image_ids()]
    if not registered:
        raise InputError(f"{label}: a COLMAP model without registered images; run COLMAP's mapper again")
    views, missing = [], []
    for image in registered:
        try:
            name = (names or {}).get(image.image_id) or image.name
        except UnicodeDecodeError as error:
            raise InputError(
                f"{label}: the name of image {image.image_id} is not UTF-8; export the model as text"
            ) from error
        path = find_image(name, images, images, label)
        if path is None:
            missing.append(name)
        else:
            views.append(_view(image, name, path, label, pixel_center))
    notes = missing_images(missing, len(registered), label) + other_endings(views)
    views.sort(key=lambda view: view_key(view.name))
    return Source("colmap", tuple(views), _points(model), notes=notes)


def _view(image: Any, name: str, path: Path, label: str, pixel_center: float) -> SourceView:
    camera = image.camera
    label = f"{label}: camera {camera.camera_id} of {name}"
    if camera.model_name == "EQUIRECTANGULAR":
        raise InputError(
            f"{label} is {camera.model_name}; expected a camera with an image plane: render perspective "
            "views of it"
        )
    k = centered_intrinsics(np.asarray(camera.calibration_matrix(), dtype=np.float64), pixel_center, label)
    pose = np.asarray(image.cam_from_world().matrix(), dtype=np.float64)
    return SourceView(name, path, k, pose, _lens(camera), (int(camera.height), int(camera.width)))


def _lens(camera: Any) -> Lens | None:
    if camera.is_undistorted():
        return None
    camera = copy.deepcopy(camera)  # the original is freed with its model
    k = np.asarray(camera.calibration_matrix(), dtype=np.float64)

    def lens(points: Array) -> Array:
        pixels = np.asarray(camera.img_from_cam(np.column_stack([points, np.ones(len(points))])))
        return (pixels - k[:2, 2]) / np.diag(k)[:2]

    return lens


def _points(model: Any) -> Array | None:
    """(N, 3) points with long tracks, or all points if those are too few; None below `MIN_POINTS`."""
    tracks = [(point.xyz, point.track.length()) for point in model.points3D.values()]
    reliable = [xyz for xyz, length in tracks if length >= MIN_TRACK_LENGTH]
    chosen = reliable if len(reliable) >= MIN_POINTS else [xyz for xyz, _ in tracks]
    return np.array(chosen, dtype=np.float64) if len(chosen) >= MIN_POINTS else None
