"""COLMAP models, binary or text, read by `pycolmap`.

COLMAP puts the first pixel's center at (0.5, 0.5) and uses OpenCV's axes. All its camera models but the
spherical one are taken: pycolmap itself says what their lenses do.
"""

from __future__ import annotations

import copy
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np

from idr.errors import InputError, MissingInputError
from idr.importers.points import FEWEST_POINTS
from idr.importers.source import (
    Array,
    Lens,
    Source,
    SourceView,
    check_intrinsics,
    find_image,
    shifted,
    view_key,
)

MODEL_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0", "dense/sparse")
IMAGE_FOLDERS = (
    *("images", "image", "../images", "../image", "../../images", "../../image", "../../../images"),
    "../photographs",  # beside a model of our own reconstruction
)
PIXEL_CENTER = 0.5
SPHERICAL = ("EQUIRECTANGULAR",)
LONG_TRACK = 3
"""Images that must see a point for it to be believed, where enough points have so many."""


def import_pycolmap() -> Any:
    """Returns the module, or says how to get it.

    On its first import it puts the handlers of its logging library (glog) in place of those for SIGTERM and
    crashes, and has no switch against that: a plain ``kill`` would end in a native stack trace. SIGTERM gets
    back what Python knows of it; crashes keep glog's trace, which tells where they were.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap
    except ImportError as error:
        raise MissingInputError(
            "COLMAP models are read by pycolmap, which is not installed: pip install 'pycolmap>=4.0' (or "
            "pip install -e '.[colmap]')"
        ) from error
    if threading.current_thread() is threading.main_thread():  # Python lets no other one set handlers
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
    return pycolmap


def find_model(source: Path) -> Path | None:
    """Returns the folder with cameras, images and points3D, .bin or .txt; None if there is none."""
    for name in MODEL_FOLDERS:
        folder = source / name
        if any(
            all((folder / f"{part}{e}").is_file() for part in ("cameras", "images")) for e in (".bin", ".txt")
        ):
            return folder
    return None


def read(source: Path, images: Path | None = None, pixel_center: float = PIXEL_CENTER) -> Source:
    """Reads a COLMAP model.

    Args:
        source: The model's folder, or one above it (`sparse/0`, `sparse`, `colmap/sparse/0`).
        images: The images' folder, None to look for `images/` around the model.
        pixel_center: Where the model puts the center of the first pixel.

    Returns:
        The scene: the images that the model places, in natural name order.

    Raises:
        MissingInputError: pycolmap, the model or an image is not there.
        InputError: The model cannot be read, is empty, or has a spherical camera.
    """
    pycolmap = import_pycolmap()
    folder = find_model(source)
    if folder is None:
        raise MissingInputError(f"no COLMAP model (cameras and images, .bin or .txt) in {source}")
    try:
        model = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # C++ exceptions of many kinds
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder} cannot be read as a COLMAP model ({reason}); export it again") from error
    return from_model(model, images or _image_folder(folder), str(folder), pixel_center)


def from_model(model: Any, images: Path, whose: str, pixel_center: float = PIXEL_CENTER) -> Source:
    """Makes a scene of a `pycolmap.Reconstruction`.

    Args:
        model: The reconstruction.
        images: Folder that its image names are relative to.
        whose: The model's name, for messages.
        pixel_center: Where the model puts the center of the first pixel.

    Returns:
        The scene.

    Raises:
        MissingInputError: An image is not there.
        InputError: No image is placed, or a camera is spherical.
    """
    placed = [model.images[i] for i in model.reg_image_ids()]
    if not placed:
        raise InputError(f"{whose}: a COLMAP model without placed images; run its mapper again")
    views = [_view(image, images, whose, pixel_center) for image in placed]
    views.sort(key=lambda view: view_key(view.name))
    return Source("colmap", tuple(views), _points(model))


def _image_folder(model: Path) -> Path:
    found = next((model / name for name in IMAGE_FOLDERS if (model / name).is_dir()), None)
    if found is None:
        raise MissingInputError(f"no folder images/ around the COLMAP model {model}; name it with --images")
    return found


def _view(image: Any, images: Path, whose: str, pixel_center: float) -> SourceView:
    camera = image.camera
    name = f"{whose}: camera {camera.camera_id} of {image.name}"
    if camera.model_name in SPHERICAL:
        raise InputError(
            f"{name} is {camera.model_name}; expected a camera with an image plane: render views of it"
        )
    intrinsics = np.asarray(camera.calibration_matrix(), dtype=np.float64)
    check_intrinsics(intrinsics, name)
    pose = np.asarray(image.cam_from_world().matrix(), dtype=np.float64)
    return SourceView(
        image.name,
        find_image(images / image.name, whose),
        shifted(intrinsics, pixel_center),
        pose,
        _lens(camera),
        (int(camera.height), int(camera.width)),
    )


def _lens(camera: Any) -> Lens | None:
    """The camera's distortion as pycolmap computes it; None for a pinhole."""
    if camera.is_undistorted():
        return None
    camera = copy.deepcopy(camera)  # the model's own goes with the model
    k = np.asarray(camera.calibration_matrix(), dtype=np.float64)

    def lens(points: Array) -> Array:
        pixels = np.asarray(camera.img_from_cam(np.column_stack([points, np.ones(len(points))])))
        return (pixels - k[:2, 2]) / np.diag(k)[:2]

    return lens


def _points(model: Any) -> Array | None:
    """(N, 3) points that at least three images see, or all of them if those are few; None for hardly any."""
    tracks = [(point.xyz, point.track.length()) for point in model.points3D.values()]
    long = [xyz for xyz, length in tracks if length >= LONG_TRACK]
    chosen = long if len(long) >= FEWEST_POINTS else [xyz for xyz, _ in tracks]
    return np.array(chosen, dtype=np.float64) if len(chosen) >= FEWEST_POINTS else None
