"""Puts an imported scene into a folder of the project: whole or not at all.

B views, N points. World frame and unit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError
from idr.files import whole_folder, write_atomic, write_text_atomic
from idr.importers.masks import given as mask_sources
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.contact_sheet import draw_sheet
from idr.importers.photographs.files import Picture, load_picture
from idr.importers.rough_cameras import describe
from idr.importers.source import Array, Source
from idr.importers.sphere import Sphere, choose_sphere
from idr.preprocess.scene_check import check_scene
from idr.preprocess.scene_report import REPORT, write_scene_report
from idr.preprocess.scene_views import SceneViews, make_views

RECORD, SHEET, CAMERAS, ROUGH = "import.json", "masks.png", "cameras.npz", "cameras_linear_init.npz"
OWN_NAMES = {"image", "mask", "check", RECORD, SHEET, REPORT, CAMERAS, ROUGH}
OWN_NAMES |= {"cameras_backup.npz", "cameras_linear_init_backup.npz"}
Roughen = Callable[[Array, Array], Array]
"""Makes rough poses (B, 4, 4) of exact ones (B, 4, 4) around the object's middle (3,)."""
DOUBTFUL = 0.75
"""Overlap of a made mask with what the other views say of it below which it is named."""


@dataclass(frozen=True)
class Options:
    """How to import.

    Attributes:
        masks: Folder of masks, `auto`, `alpha`, or None for what the source has.
        mask_command: Another program that makes them, None for none.
        sphere: `auto`, `hull`, `points` or `source`.
        downscale: Factor by which images shrink.
        points: (N, 3) sparse points on the object: where made masks begin, and for the sphere in place of
            the source's own.
        overwrite: Whether a scene that is there may be replaced.
        roughen: Makes the rough cameras to write beside the exact ones; None for none.
    """

    masks: str | None = None
    mask_command: str | None = None
    sphere: str = "auto"
    downscale: int = 1
    points: Array | None = None
    overwrite: bool = False
    roughen: Roughen | None = None


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        folder: The scene's folder.
        num_views: B.
        size: (H, W) of all images.
        mask_source: Where the masks came from, in words.
        sphere: The unit sphere.
        warnings: What a user should look at.
        notes: What was done to images and cameras.
    """

    folder: Path
    num_views: int
    size: tuple[int, int]
    mask_source: str
    sphere: Sphere
    warnings: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())


def check_target(folder: Path, overwrite: bool) -> None:
    """Makes sure that nothing is lost by putting a scene in a folder's place.

    Args:
        folder: The folder; missing and empty ones are fine.
        overwrite: Whether an imported scene may be replaced.

    Raises:
        InputError: Something is there that may not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder to write the scene to: choose another --out")
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} exists and was not written by an import: choose another --out, or move it away"
        )
    if not overwrite:
        raise InputError(
            f"{folder} holds a scene already: add --force to replace it, or choose another --out"
        )
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in OWN_NAMES)
    if foreign:
        raise InputError(
            f"{folder} also holds {', '.join(foreign[:5])}, which no import wrote and --force will not "
            "delete: "
            "move it away first"
        )


def write_scene(
    source: Source, folder: Path, options: Options, origin: str, tell: Callable[[str], None]
) -> Imported:
    """Writes a scene of another program as a data folder.

    Everything is made in a hidden folder beside the target, which takes its place at the very end.

    Args:
        source: The scene.
        folder: The folder to make, `data/<dir>/scan<N>`.
        options: How.
        origin: Where the source was read, for the record.
        tell: Called with a line of progress now and then.

    Returns:
        What was written.

    Raises:
        MissingInputError: A part of the source is not there.
        InputError: The source cannot be used, or the target may not be replaced.
        OutputError: The system refuses to write; what was there is unchanged.
    """
    check_target(folder, options.overwrite)
    words = mask_sources.check_command(options.mask_command) if options.mask_command else None
    if words and options.masks:
        raise InputError("got both --masks and --mask_command; expected one of them")
    if len({view.image.resolve() for view in source.views}) < len(source.views):
        raise InputError("two views are of one photograph; expected each image once: remove the other entry")
    with whole_folder(folder) as temporary:
        pictures, mask_source = _write_images(source, temporary, options, words, tell)
        views, warnings = _with_masks(source, pictures, temporary, options, words, tell)
        points = options.points if options.points is not None else source.points
        sphere = choose_sphere(views, points, source.scale_mat, options.sphere)
        projections = np.stack([picture.projection for picture in pictures])
        _write_cameras(temporary / CAMERAS, projections, sphere)
        rough = _write_rough(temporary / ROUGH, views, sphere, options.roughen)
        draw_sheet(views, temporary / "image", temporary / SHEET)
        tell("drawing the report")
        title, check = f"{folder.parent.name}/{folder.name}", check_scene(temporary, CAMERAS)
        warnings = write_scene_report(check, temporary / REPORT, title, (*warnings, *sphere.warnings))
        size = pictures[0].rgb.shape[:2]
        notes = (*source.notes, *_notes(pictures, options), *rough)
        record = {
            "generator": "idr import_scene",
            "source": origin,
            "kind": source.kind,
            "masks": mask_source,
            "downscale": options.downscale,
            "sphere": {"center": sphere.center.tolist(), "radius": sphere.radius, "from": sphere.origin},
            "notes": notes,
            "views": [
                {"image": name, "source": view.name}
                for name, view in zip(views.names, source.views, strict=True)
            ],
        }
        write_text_atomic(temporary / RECORD, json.dumps(record, indent=1) + "\n")
    return Imported(folder, len(pictures), (size[0], size[1]), mask_source, sphere, warnings, notes)


def _write_images(
    source: Source, folder: Path, options: Options, words: list[str] | None, tell: Callable[[str], None]
) -> tuple[list[Picture], str]:
    """Reads every view and writes its image; says where masks will come from."""
    given = options.masks
    makes = given == mask_sources.AUTO or words is not None
    files: list[Path | None] = [None] * len(source.views)
    use_alpha = given == mask_sources.ALPHA
    if not makes and not use_alpha:
        files = mask_sources.mask_files(source, Path(given).expanduser() if given else None)
        use_alpha = files[0] is None and mask_sources.has_alpha_masks(source)
        if files[0] is None and not use_alpha:
            raise InputError(
                f"the source ({source.kind}) has no masks and its images no alpha channel; expected "
                "--masks FOLDER, "
                "--mask_command 'prog {image} {mask}', or --masks auto to have them made"
            )
    pictures: list[Picture] = []
    for k, (view, file) in enumerate(zip(source.views, files, strict=True)):
        picture = load_picture(view, file, use_alpha, options.downscale)
        if pictures and picture.rgb.shape != pictures[0].rgb.shape:
            first = pictures[0].rgb.shape
            raise InputError(
                f"{view.image} has {picture.rgb.shape[1]} x {picture.rgb.shape[0]} pixels, "
                f"{source.views[0].image.name} {first[1]} x {first[0]}; expected all images of one size: "
                "import "
                "those of one size, or resize them before calibration"
            )
        pictures.append(picture)
        _write_png(folder / "image" / _name(k), cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR))
        if (k + 1) % 25 == 0:
            tell(f"read {k + 1} of {len(source.views)} images")
    if makes:
        return pictures, f"made by {words[0]}" if words else "made (auto)"
    return pictures, "alpha channel" if use_alpha else (given or "the source's own")


def _with_masks(
    source: Source,
    pictures: list[Picture],
    folder: Path,
    options: Options,
    words: list[str] | None,
    tell: Callable[[str], None],
) -> tuple[SceneViews, tuple[str, ...]]:
    """Makes the masks that are missing, checks and writes all of them."""
    names = [_name(k) for k in range(len(pictures))]
    world_mats = np.stack([picture.projection for picture in pictures])
    warnings: tuple[str, ...] = ()
    masks: list[NDArray[np.bool_]]
    if words is not None:
        masks = [
            mask_sources.run_command(words, folder / "image" / name, picture.rgb.shape[:2])
            for name, picture in zip(names, pictures, strict=True)
        ]
    elif options.masks == mask_sources.AUTO:
        tell(f"making masks of {len(pictures)} images")
        titles = [f"{name} ({view.name})" for name, view in zip(names, source.views, strict=True)]
        photographs = [picture.rgb for picture in pictures]
        made = make_masks(photographs, titles, world_mats, options.points, source.points)
        masks = list(made.masks)
        doubtful = np.flatnonzero(made.agreement < DOUBTFUL)
        if len(doubtful):
            listed = ", ".join(f"{names[k]} {made.agreement[k]:.2f}" for k in doubtful[:8])
            warnings = (f"masks that the other views bear out least (overlap): {listed}; look at {SHEET}",)
    else:
        masks = [picture.mask for picture in pictures if picture.mask is not None]
    views = make_views(
        tuple(f"{n} ({v.name})" for n, v in zip(names, source.views, strict=True)), tuple(masks), world_mats
    )
    for name, mask in zip(names, masks, strict=True):
        _write_png(folder / "mask" / name, mask.astype(np.uint8) * np.uint8(255))
    return SceneViews(tuple(names), views.masks, views.intrinsics, views.poses, views.projections), warnings


def _write_cameras(path: Path, projections: Array, sphere: Sphere) -> None:
    arrays: dict[str, Array] = {}
    for k, projection in enumerate(projections):
        arrays[f"world_mat_{k}"] = np.vstack([projection, [0.0, 0.0, 0.0, 1.0]])
        arrays[f"scale_mat_{k}"] = sphere.scale_mat
    write_atomic(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _write_rough(path: Path, views: SceneViews, sphere: Sphere, roughen: Roughen | None) -> list[str]:
    """Writes rough cameras with the exact ones' intrinsics, if asked to; says how far off they are."""
    if roughen is None:
        return []
    poses = roughen(views.poses, sphere.center)
    _write_cameras(path, views.intrinsics @ np.linalg.inv(poses)[:, :3], sphere)
    return [describe(poses, views.poses, sphere.center)]


def _notes(pictures: list[Picture], options: Options) -> list[str]:
    notes = []
    undistorted = sum(picture.undistorted for picture in pictures)
    if undistorted:
        notes.append(f"lens distortion removed from {undistorted} of {len(pictures)} images and masks")
    rescaled = {round(picture.rescaled, 4) for picture in pictures if picture.rescaled != 1.0}
    if rescaled:
        factors = ", ".join(f"{factor:g}" for factor in sorted(rescaled))
        notes.append(f"images are {factors} times the calibrated size: intrinsics scaled to them")
    if options.downscale > 1:
        notes.append(f"reduced {options.downscale} times by averaging")
    return notes


def _name(k: int) -> str:
    return f"{k:04d}.png"


def _write_png(path: Path, picture: np.ndarray) -> None:
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    write_atomic(path, lambda file: file.write(encoded))
