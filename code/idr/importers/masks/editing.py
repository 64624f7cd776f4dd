"""The masks of a scene's folder while a user mends them.

B views, H rows, W columns, N points. Pixels are (column, row).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from idr.datasets.camera_files import read_cameras
from idr.datasets.images import list_images, load_rgb
from idr.datasets.masks import scene_masks
from idr.datasets.points import POINTS_FILE, read_points
from idr.datasets.record import RECORD, read_true_size, title_of_scene
from idr.errors import InputError
from idr.files import read_json, write_atomic, write_text_atomic
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.carving import other_views_outlines
from idr.importers.masks.hints import BACKGROUND, OBJECT, UNKNOWN, Hint, hint_of_mask, obeying
from idr.importers.masks.seeds import Seeds, seeds_from_points
from idr.importers.source import Array, resized, size_within
from idr.preprocess.bounding_sphere import fit_sphere
from idr.preprocess.outlines import outline_radii
from idr.preprocess.scene_check import check_scene
from idr.preprocess.scene_drawing import draw_sheet, write_png
from idr.preprocess.scene_report import REPORT, write_scene_report
from idr.preprocess.scene_views import (
    EXACT_CAMERAS,
    Mask,
    SceneViews,
    camera_file_of,
    load_views,
    make_views,
    radius_of,
    write_scale_mats,
)

HINTS, KEPT, BEFORE = "mask_hints", "kept.json", "mask_before"
"""In the scene: the folder of labels, the file in it that names masks to keep, the folder of first masks."""
EDITS = "mask_edits"
"""Key of the scene's record: a digest of masks that were mended."""
LEVELS = {UNKNOWN: 0, BACKGROUND: 128, OBJECT: 255}
"""Gray levels of labels in their files."""
LABELS = {"object": OBJECT, "background": BACKGROUND, "erase": UNKNOWN}
BRUSH, LARGEST_BRUSH = 0.025, 2000
"""Default width of a line over the longer side of its photograph, and largest width in pixels."""
MADE = "made (auto)"
"""What the record of an import says of automatic masks."""
SMALL_SIDE = 480
"""Pixels of the longer side at which masks are compared."""
SPHERE_TOLERANCE = 0.02
"""Change of center or radius, over the radius, below which a scene keeps its unit sphere: trained runs refer
to it."""


@dataclass(frozen=True)
class Stroke:
    """Labels that a user draws on one photograph.

    Attributes:
        label: A key of `LABELS`; or `within` for a box with the object inside: all outside is background.
        shape: A `line` through the points, or the `box` between two of them.
        points: N pixels.
        width: Of the line, pixels; None for `BRUSH`.
    """

    label: str
    shape: Literal["line", "box"]
    points: tuple[tuple[float, float], ...]
    width: float | None = None

    def drawn(self, hint: Hint) -> Hint:
        """Returns a copy of labels (H, W) with this stroke drawn over them."""
        corners = np.clip(np.round(self.points), -10_000, 40_000).astype(int)
        covered = np.zeros(hint.shape, np.uint8)
        if self.shape == "box":
            (left, top), (right, bottom) = corners.min(axis=0).clip(0), corners.max(axis=0).clip(-1)
            covered[top : bottom + 1, left : right + 1] = 1
        else:
            width = BRUSH * max(hint.shape) if self.width is None else self.width
            thickness = max(1, round(min(width, LARGEST_BRUSH)))
            cv2.polylines(covered, [corners.astype(np.int32)], False, 1, thickness)
            for column, row in corners.tolist():
                cv2.circle(covered, (column, row), thickness // 2, 1, -1)
        drawn = hint.copy()
        if self.label == "within":
            drawn[covered == 0] = BACKGROUND
        else:
            drawn[covered == 1] = LABELS[self.label]
        return drawn


class MaskEditor:
    """Masks of a data folder (`image/`, `mask/`, `cameras.npz`), labels of single views, and their saving.

    Attributes:
        folder: The scene.
        names: B names of the images.
        photographs: B arrays (H, W, 3), RGB.
        masks: B current masks (H, W).
        hints: B arrays (H, W) of labels.
        keeps: B flags: the mask is right as it is, apart from its labels.
        agreement: (B,) IoU of each mask with the silhouette of the other views' hull.

    Raises:
        MissingInputError: A part of the scene is missing.
        InputError: A part cannot be read, or does not fit to the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        views = load_views(folder)
        images, self._mask_files = list_images(folder / "image"), scene_masks(folder)
        if len(images) != len(views):
            raise InputError(f"{folder}: {len(images)} images but {len(views)} masks; expected one of each")
        self.names = [path.name for path in images]
        self.photographs = [load_rgb(path) for path in images]
        for path, photograph, mask in zip(images, self.photographs, views.masks, strict=True):
            if photograph.shape[:2] != mask.shape:
                raise InputError(f"{path}: the mask has another size; expected masks of the images' size")
        self.projections = views.projections
        scale_mat = read_cameras(folder / EXACT_CAMERAS, len(views)).scale_mats[0]
        self._center, self._radius = scale_mat[:3, 3], radius_of(scale_mat)
        points = folder / POINTS_FILE
        self._points = self._seed_points(read_points(points).points) if points.is_file() else None
        self._record = read_record(folder)
        self.masks, self._saved = list(views.masks), list(views.masks)
        self.hints = [self._read_hint(k) for k in range(len(views))]
        self.keeps = self._read_keeps()
        self.agreement = self._agreements()

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def unsaved(self) -> bool:
        """Whether a mask differs from its file."""
        return any((a != b).any() for a, b in zip(self.masks, self._saved, strict=True))

    def view_of(self, name: str) -> int:
        """Returns the number of a view, which may be called by its number or its image's name.

        Raises:
            InputError: There is no such view.
        """
        stems = [Path(image).stem for image in self.names]
        for names in (self.names, stems, list(map(str, range(len(self))))):
            if name in names:
                return names.index(name)
        raise InputError(
            f"no view {name} in {self.folder}; expected a number from 0 to {len(self) - 1}, or the name of "
            f"an image such as {self.names[0]}"
        )

    def label(self, k: int, hint: Hint) -> None:
        """Replaces the labels (H, W) of view k, also in their file."""
        self.hints[k] = hint
        path = self._hint_path(k)
        if hint.any() or path.exists():
            write_png(path, np.array([LEVELS[i] for i in range(3)], np.uint8)[hint])

    def keep(self, k: int, keeps: bool) -> None:
        """Sets whether the mask of view k is right as it is, also in its file."""
        self.keeps[k] = keeps
        self.write_keeps()

    def write_keeps(self) -> None:
        """Writes which masks are right as they are."""
        kept = [name for name, kept in zip(self.names, self.keeps, strict=True) if kept]
        write_text_atomic(self.folder / HINTS / KEPT, json.dumps(kept) + "\n")

    def update(self) -> None:
        """Computes all masks again from the labels, except those to keep.

        Raises:
            InputError: No object was found with these labels.
        """
        for name, hint in zip(self.names, self.hints, strict=True):
            for label, other in ((OBJECT, "background"), (BACKGROUND, "object")):
                if (hint == label).all():
                    raise InputError(f"{name}: its labels leave no {other}; erase some of them")
        hints = [
            hint_of_mask(obeying(mask, hint)) if keeps else hint
            for mask, hint, keeps in zip(self.masks, self.hints, self.keeps, strict=True)
        ]
        made = make_masks(self.photographs, self.names, self.projections, self._points, None, hints)
        self.masks, self.agreement = list(made.masks), self._agreements(made.masks)

    def save(self) -> list[str]:
        """Writes the masks that changed, and what depends on them; returns what was done, a line each.

        The first masks are kept in `BEFORE`. The sphere of an import that computed it from the masks is
        computed again; it is written if it moved by more than `SPHERE_TOLERANCE`.

        Raises:
            OutputError: Writing failed; every file is the old or the new one.
        """
        changed = [k for k in range(len(self)) if (self.masks[k] != self._saved[k]).any()]
        if not changed:
            return ["no mask changed: nothing written"]
        views = make_views(tuple(self.names), tuple(self.masks), self.projections)
        if self._record is not None:  # first: whoever trained with the old masks sees it even after a crash
            bits = b"".join(np.packbits(mask).tobytes() for mask in self.masks)
            self._record[EDITS] = hashlib.sha256(bits).hexdigest()
            self._write_record()
        for k in changed:
            self._write_mask(k)
        lines = [f"wrote {len(changed)} masks; the first ones are kept in {self.folder / BEFORE}"]
        lines += self._renew_sphere(views)
        if self._record is not None:
            self._write_record()
            draw_sheet(views, self.folder / "image", self.folder / "masks.png")
            try:
                check, true_size = check_scene(self.folder, EXACT_CAMERAS), read_true_size(self.folder)
                title = title_of_scene(self.folder)
                write_scene_report(check, self.folder / REPORT, title, true_size=true_size)
            except InputError as error:
                lines.append(f"WARNING: {REPORT} is the old one: {error}")
        return lines

    def _write_record(self) -> None:
        write_text_atomic(self.folder / RECORD, json.dumps(self._record, indent=1) + "\n")

    def _write_mask(self, k: int) -> None:
        path, before = self._mask_files[k], self.folder / BEFORE / self._mask_files[k].name
        if not before.exists():
            content = path.read_bytes()
            write_atomic(before, lambda file: file.write(content))
        written = path.with_suffix(".png")
        write_png(written, self.masks[k].astype(np.uint8) * np.uint8(255))
        if path != written:
            path.unlink()
        self._mask_files[k], self._saved[k] = written, self.masks[k]

    def _renew_sphere(self, views: SceneViews) -> list[str]:
        """Fits the unit sphere to the masks, if it was computed from them."""
        reach = float(outline_radii(views, self._center).max()) / self._radius
        beyond = f"masks reach {reach:.2f} radii of the unit sphere, and parts outside are not reconstructed"
        if self._record is None or "hull" not in str(self._record.get("sphere", {}).get("from")):
            remedy = "preprocess_cameras.py fits a new one to the masks"
            return [f"WARNING: {beyond}: {remedy}"] if reach > 1 else []
        try:
            fit = fit_sphere(views)
        except InputError as error:
            return [f"WARNING: the unit sphere is the old one: {error}"]
        shift = float(np.linalg.norm(fit.center - self._center)) / self._radius
        if max(shift, abs(fit.radius / self._radius - 1)) <= SPHERE_TOLERANCE and reach <= 1:
            return ["the unit sphere still fits"]
        for rough in (False, True):
            path = self.folder / camera_file_of(rough)
            if path.is_file():
                write_scale_mats(path, fit.center, fit.radius)
        assert self._record is not None
        self._record["sphere"] |= {"center": fit.center.tolist(), "radius": fit.radius}
        was, self._center, self._radius = self._radius, fit.center, fit.radius
        return [
            f"unit sphere: moved by {shift:.2f} of its radius, radius {fit.radius:.6g} (was {was:.6g}); runs "
            "of this scene have the old one: train anew"
        ]

    def _seed_points(self, points: Array) -> Array | None:
        """Returns sparse points that all views see, from which masks are made; else None, for the cameras."""
        try:
            seeds_from_points(points, self.projections, [image.shape[:2] for image in self.photographs])
        except InputError:
            return None
        return points

    def _agreements(self, masks: Sequence[Mask] | None = None) -> Array:
        masks = self.masks if masks is None else masks
        small, matrices = [], []
        for mask, projection in zip(masks, self.projections, strict=True):
            height, width = mask.shape
            size = size_within(mask.shape, SMALL_SIDE)
            shrunk = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
            small.append(shrunk)
            matrices.append(resized(projection, size[0] / width, size[1] / height))
        views = make_views(tuple(self.names), tuple(small), np.stack(matrices))
        reach = float(outline_radii(views, self._center).max())
        outlines = other_views_outlines(views, Seeds(self._center, reach, ()))
        return np.array([(m & o).sum() / max(1, (m | o).sum()) for m, o in zip(small, outlines, strict=True)])

    def _hint_path(self, k: int) -> Path:
        return self.folder / HINTS / f"{Path(self.names[k]).stem}.png"

    def _read_hint(self, k: int) -> Hint:
        path, size = self._hint_path(k), self.masks[k].shape
        hint = np.full(size, UNKNOWN, np.uint8)
        if not path.is_file():
            return hint
        levels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if levels is None or levels.shape != size or not np.isin(levels, list(LEVELS.values())).all():
            raise InputError(
                f"{path} has no labels of this photograph; expected {size[1]} x {size[0]} gray pixels of 0, "
                "128 (background) or 255 (object): move it away"
            )
        for label, level in LEVELS.items():
            hint[levels == level] = label
        return hint

    def _read_keeps(self) -> list[bool]:
        """The user's choice; at first masks are kept unless they are automatic, or have labels."""
        path = self.folder / HINTS / KEPT
        if path.is_file():
            try:
                kept = set(map(str, read_json(path)))
            except (OSError, ValueError, TypeError) as error:
                raise InputError(f"{path} cannot be read ({error}); move it away") from error
            return [name in kept for name in self.names]
        record = self._record or {}
        made = record.get("made_masks", self.names if record.get("masks") == MADE else [])
        return [name not in made and not h.any() for name, h in zip(self.names, self.hints, strict=True)]


def mask_edits(folder: Path) -> list[str]:
    """Returns a digest of the masks of an imported scene if some were mended; else nothing."""
    record = read_record(folder) or {}
    return [str(record[EDITS])] if EDITS in record else []


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns what an import recorded of a scene, None for a scene that no import wrote.

    Raises:
        InputError: The record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); import the scene again") from error
