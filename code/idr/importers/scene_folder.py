"""Writes an imported scene as a data folder, completely or not at all.

B views, N points, H rows, W columns. World frame and unit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from idr.datasets.points import POINTS_FILE
from idr.datasets.record import RECORD, TrueSize
from idr.errors import InputError
from idr.failures import MASKS_INVERTED
from idr.files import whole_folder, write_atomic, write_text_atomic
from idr.importers.masks import sources as mask_sources
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.hints import hint_of_backdrop, hint_of_mask
from idr.importers.masks.network import REMBG, open_network
from idr.importers.masks.sources import FoundMasks
from idr.importers.photographs.files import (
    PreparedView,
    is_turned_upright,
    orientation_notes,
    prepare_view,
)
from idr.importers.rough_cameras import describe
from idr.importers.sizes import Sizes, common_size, describe_change, fitted, without_padding
from idr.importers.source import Array, Progress, Source
from idr.importers.sphere import Sphere, choose_sphere, points_on_object
from idr.places import title_of
from idr.preprocess.scene_check import check_scene
from idr.preprocess.scene_drawing import draw_sheet, write_png
from idr.preprocess.scene_report import REPORT, write_scene_report
from idr.preprocess.scene_views import Mask, SceneViews, make_views
from idr.progress_bar import with_progress
from idr.replacing import check_replaceable

SHEET, CAMERAS, ROUGH = "masks.png", "cameras.npz", "cameras_linear_init.npz"
ADDED_LATER = ("check/*.png",)
"""Files that check_scene.py adds to a scene; those of other commands are marked as ours."""
Roughen = Callable[[Array, Array], Array]
"""Returns rough poses (B, 4, 4) for exact poses (B, 4, 4) and the object's center (3,)."""
MIN_AGREEMENT = 0.75
"""IoU of an automatic mask with the other views' hull below which the mask is named in a warning."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        masks: Folder of masks, `auto`, `rembg`, `alpha`, or None for the source's own.
        make_missing: Whether masks that are missing there are computed, from the others.
        mask_command: Command line of a program that makes masks, None without one.
        sphere: `auto`, `hull`, `points` or `source`.
        downscale: Factor by which images shrink.
        points: (N, 3) sparse points on the object: they seed automatic masks and replace the source's points
            for the sphere.
        overwrite: Whether an imported scene may be replaced.
        roughen: Makes the rough cameras to write next to the exact ones; None for none.
    """

    masks: str | None = None
    make_missing: bool = False
    mask_command: str | None = None
    sphere: str = "auto"
    downscale: int = 1
    points: Array | None = None
    overwrite: bool = False
    roughen: Roughen | None = None


@dataclass(frozen=True)
class ImportedScene:
    """A scene as written: B views of one size (H, W); the notes are changes made to images and cameras."""

    folder: Path
    num_views: int
    size: tuple[int, int]
    mask_source: str
    sphere: Sphere
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_target(folder: Path, overwrite: bool) -> None:
    """Checks that writing a scene to a folder destroys nothing else, see `idr.files.check_replaceable`."""
    check_replaceable(folder, overwrite, lambda path: (path / RECORD).is_file(), ADDED_LATER, "an import")


def write_scene(
    source: Source, folder: Path, options: ImportOptions, origin: str, progress: Progress
) -> ImportedScene:
    """Writes a scene as a data folder, `data/<dir>/scan<N>`; `origin` is the source's path, for the record.

    Files are written to a hidden folder next to the target, which is renamed at the end.

    Raises:
        MissingInputError: A file of the source is missing.
        InputError: The source cannot be used, or the target must not be replaced.
        OutputError: Writing failed; existing files are unchanged.
    """
    check_target(folder, options.overwrite)
    if options.mask_command and options.masks:
        raise InputError("got both --masks and --mask_command; expected only one of them")
    if len({view.image.resolve() for view in source.views}) < len(source.views):
        raise InputError(
            "two views use the same photograph; expected each image once: remove the other entry"
        )
    with whole_folder(folder) as temporary:
        prepared, sizes, mask_source = _write_images(source, temporary, options, progress)
        views, warnings = _write_masks(source, prepared, sizes, temporary, options, progress)
        points = options.points if options.points is not None else source.points
        sphere = choose_sphere(views, points, source.scale_mat, options.sphere)
        _write_cameras(temporary / CAMERAS, np.stack([view.projection for view in prepared]), sphere)
        rough = _write_rough(temporary / ROUGH, views, sphere, options.roughen)
        if points is not None and len(on_object := points_on_object(views, points)):
            write_atomic(temporary / POINTS_FILE, lambda file: np.savez(file, points_world=on_object))
        draw_sheet(views, temporary / "image", temporary / SHEET)
        progress("writing the scene report")
        check = check_scene(temporary, CAMERAS)
        for finding in check.findings:
            if finding.name == MASKS_INVERTED:  # no scene can be trained so
                raise InputError(f"{finding.text}: {finding.remedy}")
        more = (*warnings, *sphere.warnings)
        title = title_of(Path(origin))
        warnings = write_scene_report(check, temporary / REPORT, title, more, source.true_size)
        notes = (*source.notes, *orientation_notes(source), *_notes(prepared, sizes, options), *rough)
        pairs = zip(views.names, source.views, strict=True)
        record = {
            "generator": "idr import_scene",
            "source": origin,
            "kind": source.kind,
            "masks": mask_source,
            **_made_record(views.names, prepared, options),
            "downscale": options.downscale,
            "sphere": {"center": sphere.center.tolist(), "radius": sphere.radius, "from": sphere.origin},
            **_unit_record(source.true_size),
            "notes": notes,
            "views": [{"image": name, "source": view.name} for name, view in pairs],
        }
        write_text_atomic(temporary / RECORD, json.dumps(record, indent=1) + "\n")
    height, width = prepared[0].rgb.shape[:2]
    return ImportedScene(folder, len(prepared), (height, width), mask_source, sphere, warnings, notes)


def _made_record(
    names: tuple[str, ...], prepared: list[PreparedView], options: ImportOptions
) -> dict[str, list[str]]:
    """Returns the record's entry of the views with automatic masks; none without such views."""
    made = [name for name, view in zip(names, prepared, strict=True) if view.mask is None]
    by_program = options.mask_command or options.masks == REMBG
    return {"made_masks": made} if made and not by_program else {}


def _unit_record(size: TrueSize | None) -> dict[str, Any]:
    """Returns the entries of the record that say that the world's unit is the meter; none without `size`."""
    return {} if size is None else {"unit": "m", "true_size": asdict(size)}


def _write_images(
    source: Source, folder: Path, options: ImportOptions, progress: Progress
) -> tuple[list[PreparedView], Sizes, str]:
    """Reads every view and writes its image at one size for all.

    Also returns the sizes (B, 2), H and W, before they were cropped or padded, and the origin of the masks.
    """
    nowhere: list[Path | None] = [None] * len(source.views)
    if options.mask_command:
        origin = f"made by {mask_sources.check_command(options.mask_command)[0]}"
        found = FoundMasks(nowhere, [False] * len(nowhere), origin)
    elif options.masks in (mask_sources.AUTO, REMBG):
        found = FoundMasks(nowhere, [False] * len(nowhere), f"made ({options.masks})")
    else:
        found = mask_sources.find_masks(source, options.masks, options.make_missing)
    turn_upright = is_turned_upright(source)
    prepared: list[PreparedView] = []
    for k, view in enumerate(source.views):
        file, alpha = found.files[k], found.alpha[k]
        prepared.append(prepare_view(view, file, alpha, options.downscale, turn_upright))
        if (k + 1) % 25 == 0:
            progress(f"read {k + 1} of {len(source.views)} images")
    sizes = np.array([view.rgb.shape[:2] for view in prepared])
    size = common_size(sizes)
    for k, original in enumerate(prepared):
        prepared[k] = fitted(original, size)
        write_png(folder / "image" / _name(k), prepared[k].rgb)
    num_given = sum(view.mask is not None for view in prepared)
    if 0 < num_given < len(prepared):
        found = replace(found, origin=f"{found.origin}, {len(prepared) - num_given} made (auto)")
    return prepared, sizes, found.origin


def _write_masks(
    source: Source,
    prepared: list[PreparedView],
    sizes: Sizes,
    folder: Path,
    options: ImportOptions,
    progress: Progress,
) -> tuple[SceneViews, tuple[str, ...]]:
    """Computes missing masks, checks all masks and writes them."""
    names = [_name(k) for k in range(len(prepared))]
    titles = [f"{name} ({view.name})" for name, view in zip(names, source.views, strict=True)]
    world_mats = np.stack([view.projection for view in prepared])
    warnings: tuple[str, ...] = ()
    masks: list[Mask]
    if options.mask_command:
        command, size = mask_sources.check_command(options.mask_command), prepared[0].rgb.shape[:2]
        paths = (folder / "image" / name for name in with_progress(names, "masks"))
        masks = [mask_sources.run_command(command, path, size) for path in paths]
    elif options.masks == REMBG:
        progress(f"segmenting {len(prepared)} images with rembg")
        segment = open_network()
        masks = [segment(view.rgb) for view in with_progress(prepared, "masks")]
    elif options.masks == mask_sources.AUTO or any(view.mask is None for view in prepared):
        masks, warnings = _made_masks(source, prepared, titles, options.points, progress)
    else:
        masks = [view.mask for view in prepared if view.mask is not None]
    masks, cut = without_padding(masks, sizes, titles)
    views = make_views(tuple(titles), tuple(masks), world_mats)
    for name, mask in zip(names, masks, strict=True):
        write_png(folder / "mask" / name, mask.astype(np.uint8) * np.uint8(255))
    return replace(views, names=tuple(names)), warnings + cut


def _made_masks(
    source: Source, prepared: list[PreparedView], titles: list[str], points: Array | None, progress: Progress
) -> tuple[list[Mask], tuple[str, ...]]:
    """Computes the masks of views without one, from those of the others if there are some; and a warning."""
    world_mats = np.stack([view.projection for view in prepared])
    given = [k for k, view in enumerate(prepared) if view.mask is not None]
    masks = [view.mask for view in prepared if view.mask is not None]
    make_views(tuple(titles[k] for k in given), tuple(masks), world_mats[given])  # refuses empty ones
    hints = [
        hint_of_backdrop(view.backdrop) if view.mask is None else hint_of_mask(view.mask) for view in prepared
    ]
    said = f"{len(given)} masks given; " if given else ""
    progress(f"{said}making masks of {len(prepared) - len(given)} images")
    images = [view.rgb for view in prepared]
    made = make_masks(images, titles, world_mats, points, source.points, hints)
    poor = np.flatnonzero(made.agreement < MIN_AGREEMENT)
    listed = ", ".join(f"{_name(k)} {made.agreement[k]:.2f}" for k in poor[:8])
    warning = f"masks that agree least with the other views (IoU): {listed}; check {SHEET}"
    return list(made.masks), (warning,) if len(poor) else ()


def _write_cameras(path: Path, projections: Array, sphere: Sphere) -> None:
    arrays: dict[str, Array] = {}
    for k, projection in enumerate(projections):
        arrays[f"world_mat_{k}"] = np.vstack([projection, [0.0, 0.0, 0.0, 1.0]])
        arrays[f"scale_mat_{k}"] = sphere.scale_mat
    write_atomic(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _write_rough(path: Path, views: SceneViews, sphere: Sphere, roughen: Roughen | None) -> list[str]:
    """Writes rough cameras with the exact intrinsics, if any; returns a note on their errors."""
    if roughen is None:
        return []
    poses = roughen(views.poses, sphere.center)
    _write_cameras(path, views.intrinsics @ np.linalg.inv(poses)[:, :3], sphere)
    return [describe(poses, views.poses, sphere.center)]


def _notes(prepared: list[PreparedView], sizes: Sizes, options: ImportOptions) -> list[str]:
    notes = list(describe_change(sizes, prepared[0].rgb.shape[:2]))
    undistorted = sum(view.undistorted for view in prepared)
    if undistorted:
        notes.append(f"lens distortion removed from {undistorted} of {len(prepared)} images and masks")
    rescaled = {round(view.rescaled, 4) for view in prepared if view.rescaled != 1.0}
    if rescaled:
        factors = ", ".join(f"{factor:g}" for factor in sorted(rescaled))
        notes.append(f"images are {factors} times the calibrated size: intrinsics scaled accordingly")
    if options.downscale > 1:
        notes.append(f"images reduced {options.downscale} times by averaging")
    return notes


def _name(k: int) -> str:
    return f"{k:04d}.png"
