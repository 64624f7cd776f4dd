"""Does a data folder fit together? Bounding sphere and visual hull against masks, in figures and pictures.

B views, H rows, W columns. Lengths are in units of the bounding sphere's radius, unless stated otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.datasets.camera_files import read_cameras
from idr.datasets.images import list_images, load_rgb
from idr.errors import InputError
from idr.files import write_atomic
from idr.preprocess.bounding_sphere import POOR_IOU, carve_scene, listed
from idr.preprocess.outlines import hull_ious, hull_silhouette, outline_radii, sphere_outline
from idr.preprocess.scene_views import SceneViews, load_views
from idr.preprocess.visual_hull import SceneHull

Picture: TypeAlias = NDArray[Any]  # (H, W, 3) uint8 RGB; cv2's stubs name no dtype

SMALL_IN_SPHERE = 0.25
"""An object that fills less of the sphere's radius wastes the network's resolution."""
MASK_COLOUR, SPHERE_COLOUR, HULL_COLOUR = (64, 220, 64), (255, 210, 0), (255, 40, 200)  # RGB
BACKGROUND, TEXT_COLOUR, ALARM_COLOUR = (32, 32, 32), (255, 255, 255), (255, 90, 80)
LEGEND = "green: mask   yellow: unit sphere   magenta: visual hull"
LARGEST_BORDER = 0.75
"""Border drawn around the image to show a sphere that reaches beyond it, at most this part of the side."""
CELL_WIDTH, LARGEST_SHEET = 480, 4000
"""Pixels: a view's width on the contact sheet, and the sheet's largest width."""


@dataclass(frozen=True)
class ViewCheck:
    """What was found in one view.

    Attributes:
        name: The mask's file name.
        distance: Camera centre from the sphere's centre.
        outline_radius: Radius a sphere around the same centre needs to hold the mask: 1 or less is right.
        hull_iou: Overlap of hull and mask, 0 to 1; NaN without a hull.
        warnings: What is wrong, a few words each.
    """

    name: str
    distance: float
    outline_radius: float
    hull_iou: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SceneCheck:
    """What was found in a scene.

    Attributes:
        views: Masks and cameras.
        images: B paths of the photographs.
        center: (3,) sphere's centre in the world.
        radius: Sphere's radius in world units.
        hull: The visual hull; None if masks and cameras contradict one another.
        checks: One a view.
        warnings: About the scene as a whole.
    """

    views: SceneViews
    images: tuple[Path, ...]
    center: NDArray[np.float64]
    radius: float
    hull: SceneHull | None
    checks: tuple[ViewCheck, ...]
    warnings: tuple[str, ...]


def check_scene(scene_dir: Path, camera_file: str) -> SceneCheck:
    """Compares masks, cameras, photographs and bounding sphere of a data folder.

    Args:
        scene_dir: Folder with `image/`, `mask/` and the camera file.
        camera_file: Name of the npz with `world_mat_<i>` and `scale_mat_<i>`.

    Returns:
        The findings; what contradicts itself is among them, as far as it can be drawn.

    Raises:
        MissingInputError: A part of the data is not there.
        InputError: Unreadable data, differing counts, or a camera that does not have the sphere before it.
    """
    views = load_views(scene_dir, camera_file)
    images = tuple(list_images(scene_dir / "image"))
    if len(images) != len(views):
        raise InputError(
            f"{scene_dir}: {len(images)} images but {len(views)} masks and cameras; each image needs one of "
            "each"
        )
    scale_mats = read_cameras(scene_dir / camera_file, len(views)).scale_mats
    center = scale_mats[0, :3, 3]
    radius = float(np.cbrt(np.abs(np.linalg.det(scale_mats[0, :3, :3]))))
    warnings = []
    if not np.allclose(scale_mats, scale_mats[0], rtol=1e-6, atol=1e-6 * radius):
        warnings.append(
            "the scale_mats differ between views: the poses' common frame is lost; run preprocess_cameras.py"
        )
    try:
        hull = carve_scene(views)
        ious = hull_ious(views, hull)
    except InputError as error:
        hull, ious = None, np.full(len(views), np.nan)
        warnings.append(str(error))
    outline_radius = outline_radii(views, center) / radius
    distances = np.linalg.norm(views.centers - center, axis=1) / radius
    checks = tuple(
        ViewCheck(name, float(d), float(r), float(iou), _view_warnings(float(d), float(r), float(iou)))
        for name, d, r, iou in zip(views.names, distances, outline_radius, ious, strict=True)
    )
    warnings += _scene_warnings(hull, center, radius, outline_radius)
    wrong_size = [k for k, path in enumerate(images) if load_rgb(path).shape[:2] != views.masks[k].shape]
    if wrong_size:
        names = tuple(path.name for path in images)
        warnings.append(f"image and mask differ in size in view {listed(np.array(wrong_size), names)}")
    return SceneCheck(views, images, center, radius, hull, checks, tuple(warnings))


def draw_scene(check: SceneCheck, out_dir: Path) -> Path:
    """Draws the outlines of mask, sphere and hull over every photograph, and all of them on one sheet.

    Args:
        check: What `check_scene` returned.
        out_dir: Folder for `check_<image name>.png` and `contact_sheet.png`.

    Returns:
        The contact sheet's path.

    Raises:
        OutputError: The system refuses to write.
    """
    num_views = len(check.views)
    columns = math.ceil(math.sqrt(num_views))
    cell_width = min(CELL_WIDTH, LARGEST_SHEET // columns)
    border = _border(check)
    rows: list[list[Picture]] = []
    for k in range(num_views):
        thick = max(1, round(max(check.views.masks[k].shape) / 400))
        _write_png(out_dir / f"check_{check.images[k].stem}.png", _draw_view(check, k, border, thick))
        if k % columns == 0:
            rows.append([])
        width = check.views.masks[k].shape[1] + 2 * border[1]
        picture = _draw_view(
            check, k, border, max(1, round(1.2 * width / cell_width))
        )  # a line after shrinking
        cell_height = round(cell_width * picture.shape[0] / picture.shape[1])
        rows[-1].append(cv2.resize(picture, (cell_width, cell_height), interpolation=cv2.INTER_AREA))
    sheet_path = out_dir / "contact_sheet.png"
    _write_png(sheet_path, _sheet(rows, columns * cell_width))
    return sheet_path


def _view_warnings(distance: float, outline_radius: float, iou: float) -> tuple[str, ...]:
    found = []
    if outline_radius > 1.0:
        found.append("mask outside the sphere")
    if iou < POOR_IOU:
        found.append("hull and mask disagree")
    if distance <= 1.0:
        found.append("camera inside the sphere")
    return tuple(found)


def _scene_warnings(
    hull: SceneHull | None, center: NDArray[np.float64], radius: float, outline_radius: NDArray[np.float64]
) -> list[str]:
    found = []
    largest = float(outline_radius.max())
    if largest > 1.0:
        found.append(
            f"{int((outline_radius > 1.0).sum())} masks reach outside the sphere, which would need "
            f"{largest:.2f} times its radius; run preprocess_cameras.py, or look for stray white pixels"
        )
    if largest < SMALL_IN_SPHERE:
        found.append(
            f"the sphere is far too large: the masks fill {largest:.2f} of its radius; run "
            "preprocess_cameras.py"
        )
    if hull is not None and hull.is_open:
        found.append(
            "the views see the object from about one side: its hull is open in depth and was cut off"
        )
    elif hull is not None:
        beyond = float((np.linalg.norm(hull.points - center, axis=1) > radius).mean())
        if beyond > 0.0:
            found.append(f"{beyond:.1%} of the visual hull lies outside the sphere")
    return found


def _border(check: SceneCheck) -> tuple[int, int]:
    """Rows and columns to add on each side so that the spheres' outlines show, within reason."""
    need = np.zeros(2)
    for k in range(len(check.views)):
        outline = sphere_outline(check.views, k, check.center, check.radius)
        if outline is not None:
            size = np.array(check.views.masks[k].shape[::-1])
            beyond = np.maximum(-outline.min(axis=0), outline.max(axis=0) - size).clip(0)
            need = np.maximum(need, np.minimum(beyond + 0.02 * size, LARGEST_BORDER * size))
    return int(need[1]), int(need[0])


def _draw_view(check: SceneCheck, k: int, border: tuple[int, int], thick: int) -> Picture:
    """One photograph with its outlines on a canvas with a border, RGB."""
    mask = check.views.masks[k]
    photo = load_rgb(check.images[k])
    if photo.shape[:2] != mask.shape:
        photo = cv2.resize(photo, mask.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    rows, columns = border
    canvas = cv2.copyMakeBorder(photo, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=BACKGROUND)
    regions = [(mask, MASK_COLOUR)]
    if check.hull is not None:
        regions.insert(0, (hull_silhouette(check.views, k, check.hull), HULL_COLOUR))
    for region, colour in regions:
        contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, thick, offset=(columns, rows))
    found = check.checks[k]
    _write_text(canvas, f"{k}: {check.images[k].name}  IoU {found.hull_iou:.2f}", 1, TEXT_COLOUR)
    for line, warning in enumerate(found.warnings, start=2):
        _write_text(canvas, warning, line, ALARM_COLOUR)
    sphere = sphere_outline(check.views, k, check.center, check.radius)
    if sphere is not None:
        curve = np.clip(np.round(sphere + [columns, rows]), -30_000, 30_000).astype(np.int32)
        cv2.polylines(canvas, [curve], True, SPHERE_COLOUR, thick, cv2.LINE_AA)
    return canvas


def _write_text(canvas: Picture, text: str, line: int, colour: tuple[int, int, int]) -> None:
    """Writes a line of text on a strip at the top, sized to the canvas."""
    size = canvas.shape[1] / 900
    height = round(34 * size)
    canvas[(line - 1) * height : line * height] = BACKGROUND
    place, width = (round(12 * size), round((line - 0.25) * height)), max(1, round(1.6 * size))
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)


def _sheet(rows: list[list[Picture]], width: int) -> Picture:
    """Lays the cells out in rows under a legend."""
    size = width / 2400
    legend = np.full((round(60 * size), width, 3), BACKGROUND, np.uint8)
    place, thick = (round(12 * size), round(42 * size)), max(1, round(2 * size))
    cv2.putText(legend, LEGEND, place, cv2.FONT_HERSHEY_SIMPLEX, size, TEXT_COLOUR, thick, cv2.LINE_AA)
    bands = [legend]
    for row in rows:
        band = np.full((max(cell.shape[0] for cell in row), width, 3), BACKGROUND, np.uint8)
        left = 0
        for cell in row:
            band[: cell.shape[0], left : left + cell.shape[1]] = cell
            left += cell.shape[1]
        bands.append(band)
    return np.vstack(bands)


def _write_png(path: Path, picture: Picture) -> None:
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_atomic(path, lambda file: file.write(encoded))
