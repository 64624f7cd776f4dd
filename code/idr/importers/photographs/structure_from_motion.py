"""Structure from motion: cameras of photographs by COLMAP's mapper, through `pycolmap`, on the CPU.

Features, matches and model are computed in turn in a work folder. Each step's result is renamed into place
when complete, so a later call resumes after the last complete step. Further attempts (`attempts.py`), which
follow if few photographs are registered, have folders of their own in the work folder.

World frame and unit are determined up to a similarity.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idr.datasets.masks import list_masks, masks_beside, pair_masks, pair_some_masks
from idr.errors import InputError
from idr.files import whole_folder, write_text_atomic
from idr.importers.colmap import from_model, import_pycolmap
from idr.importers.photographs import source as photos
from idr.importers.photographs.attempts import (
    BACKDROP,
    EVERYWHERE,
    FULL_SIDE,
    MASKS,
    USUAL_SIDE,
    Attempt,
)
from idr.importers.photographs.failures import advice, explain_few_registered
from idr.importers.photographs.regions import (
    STILL,
    backdrop_file,
    masks_digest,
    paired_masks,
    stands_still,
    write_masks,
)
from idr.importers.photographs.source import FOLDER as PHOTOGRAPHS
from idr.importers.photographs.source import Photograph
from idr.importers.photographs.steps import FEATURES, MATCHES, MODEL, Outcome, Steps
from idr.importers.photographs.video import NUM_FRAMES, write_frames
from idr.importers.source import Progress, Source

MAX_EXHAUSTIVE = 80
"""Number of photographs up to which every pair is matched; 3160 pairs."""
NEIGHBORS, KEY_PHOTOGRAPHS = 10, 40
"""Sequential matching: photographs matched after each one, and evenly spaced ones matched with each other,
which closes an orbit."""
FRAMES, REGIONS, TRY = "frames", "regions", "try_"
STEPS = (FRAMES, PHOTOGRAPHS, STILL, REGIONS, FEATURES, MATCHES, MODEL)
"""Folders of the steps; those of further attempts begin with `TRY`."""
SETTINGS = "reconstruction.json"
ON, OFF, AUTO = "on", "off", "auto"


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of a reconstruction.

    Attributes:
        camera_model: COLMAP's name of the model of all cameras.
        matching: `exhaustive`, `sequential` (in name order), or `auto` by the number of photographs.
        min_registered: Photographs that must be registered; None for half of them.
        seed: Seed of all random draws.
        threads: -1 for one per core; with 1, results are reproducible bit by bit.
        frames: Frames to take from a video; None for `video.NUM_FRAMES`.
        turntable: Whether the camera stood still while the object turned, so that features on the backdrop
            are left out: `on`, `off`, or `auto` for what the photographs show.
        mask_features: Whether only features inside the masks count; else that is a later attempt.
        some_masks: Whether some photographs may lack a mask in a folder beside them.
        masks: Folder of masks for features; None for one beside the photographs.
        max_image_size: Longest side in pixels of the photographs in which features are found; None for
            `USUAL_SIDE`, and `FULL_SIDE` in further attempts.
        guided_matching: Whether matches are searched again along epipolar lines.
        relaxed: Whether the mapper accepts few matches and small angles.
        mapper: `incremental`, `global`, or `auto` for the former.
        second_try: Whether further attempts follow if few photographs are registered.
    """

    camera_model: str = "SIMPLE_RADIAL"
    matching: str = "auto"
    min_registered: int | None = None
    seed: int = 0
    threads: int = -1
    frames: int | None = None
    turntable: str = AUTO
    mask_features: bool = False
    some_masks: bool = False
    masks: Path | None = None
    max_image_size: int | None = None
    guided_matching: bool = False
    relaxed: bool = False
    mapper: str = AUTO
    second_try: bool = True


def reconstruct(source: Path, work: Path, settings: ReconstructionSettings, progress: Progress) -> Source:
    """Finds the cameras of the photographs in a folder, or of the sharpest frames of a video.

    The work folder is created, or resumed if it has the same photographs and settings.

    Returns:
        The scene: the photographs of the largest model, upright, with their lenses, the masks in a folder
        beside them if there is one, and its sparse points.

    Raises:
        MissingInputError: No photographs, or pycolmap is not installed.
        InputError: Photographs are too few, unreadable, do not overlap, or come from one viewpoint; or too
            few were registered; or a folder of masks beside them lacks one.
        OutputError: Writing failed.
    """
    pycolmap = import_pycolmap()
    video = photos.find_video(source)
    if video is None and settings.frames is not None:
        raise InputError(f"--frames is for a video, but {source} has photographs; leave it out")
    if video and settings.mask_features:
        raise InputError(f"--mask_features is for photographs, but {source} is a video; leave it out")
    files = [video] if video else photos.checked_photographs(source)
    digests, masks = photos.digests(files), {} if video else _masks_beside(files, settings.some_masks)
    # What determines the result; threads and `min_registered` do not.
    decided_by = (
        *("camera_model", "matching", "seed", "turntable", "mask_features", "max_image_size"),
        *("guided_matching", "relaxed", "mapper"),
    )
    decisive: dict[str, Any] = {name: getattr(settings, name) for name in decided_by}
    decisive["frames"] = settings.frames or NUM_FRAMES if video else None
    feature_masks = paired_masks(settings.masks, settings.mask_features, files, masks) if not video else {}
    if settings.mask_features:
        decisive["masks"] = masks_digest(feature_masks)
    fingerprint = {"format": 4, "pycolmap": pycolmap.__version__, **decisive, "photographs": digests}
    _begin(work, fingerprint, progress)
    notes: tuple[str, ...] = ()
    if video:
        notes = (f"photographs are the sharpest frames of {video.name}",)
        files, digests = _frames(video, decisive["frames"], work / FRAMES, progress)
    elif others := photos.left_out(source, files[0].parent):
        notes = (f"{source} also has {others}",)
        progress(f"WARNING: {notes[0]}")
    if not (work / PHOTOGRAPHS).is_dir():
        with whole_folder(work / PHOTOGRAPHS) as folder:
            photos.prepare(files, digests, folder)
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)  # failures are explained by `failures`
    job = _Job(pycolmap, work, photos.read_list(work / PHOTOGRAPHS), settings, feature_masks, progress)
    outcomes = job.attempts()
    best = max(outcomes, key=lambda outcome: (outcome.problem is None, outcome.registered))
    found = job.scene(best, outcomes, files, masks)
    return replace(found, notes=(*found.notes, *notes))


@dataclass(frozen=True)
class _Job:
    """A reconstruction of photographs: its attempts, and the scene of the best one."""

    pycolmap: Any
    work: Path
    photographs: list[Photograph]
    settings: ReconstructionSettings
    masks: dict[str, Path]
    progress: Progress

    def attempts(self) -> list[Outcome]:
        """Reconstructs until an attempt is good enough; says how each one ended if there are several."""
        outcomes: list[Outcome] = []
        for attempt in self._planned():
            if outcomes:
                self.progress(f"{outcomes[-1]}; trying {attempt.title}")
            outcomes.append(self._run(attempt))
            if outcomes[-1].is_enough:
                break
        if len(outcomes) > 1:
            self.progress(str(outcomes[-1]))
        return outcomes

    def _planned(self) -> Iterator[Attempt]:
        """The attempts in their order."""
        settings = self.settings
        pairs, told = sequential_pairs(len(self.photographs)), settings.turntable == ON
        still = settings.turntable != OFF and stands_still(
            self.work, self.photographs, pairs, told, self.progress
        )
        region = MASKS if settings.mask_features else BACKDROP if still else EVERYWHERE
        side, is_global = settings.max_image_size, settings.mapper == "global"
        guided, relaxed = settings.guided_matching, settings.relaxed
        first = Attempt("", region, side or USUAL_SIDE, False, guided, relaxed, is_global)
        yield first
        if not settings.second_try:
            return
        many = Attempt(f"{TRY}many", region, side or FULL_SIDE, True, guided, True, False)
        yield many
        if not guided:
            yield replace(many, folder=f"{TRY}guided", guided=True, base=many.folder)
        if self.masks and region != MASKS:
            yield replace(many, folder=f"{TRY}masks_{masks_digest(self.masks)}", region=MASKS)
        if region == BACKDROP and settings.turntable == AUTO:
            yield replace(first, folder=f"{TRY}everywhere", region=EVERYWHERE)

    def _run(self, attempt: Attempt) -> Outcome:
        settings, count = self.settings, len(self.photographs)
        every_pair = settings.matching == "exhaustive" or (
            settings.matching == AUTO and count <= MAX_EXHAUSTIVE
        )
        regions = None
        if attempt.region == BACKDROP:
            regions = self.work / STILL / FEATURES
        elif attempt.region == MASKS:
            regions = self.work / attempt.folder / REGIONS
            if not regions.is_dir():
                with whole_folder(regions) as folder:
                    write_masks(folder, self.photographs, self.masks)
        pairs = None if every_pair else sequential_pairs(count)
        return Steps(
            self.pycolmap, self.work, self.photographs, attempt, pairs, regions, settings.camera_model,
            settings.seed, settings.threads, self.progress,
        ).run()  # fmt: skip

    def _work_names(self) -> list[str]:
        return [photos.work_name(k, photo) for k, photo in enumerate(self.photographs)]

    def scene(
        self, best: Outcome, outcomes: list[Outcome], files: list[Path], masks: dict[str, Path]
    ) -> Source:
        """Checks the model and returns it as a source, with the user's files where they were not copied."""
        names = dict(zip(self._work_names(), (photo.name for photo in self.photographs), strict=True))
        hints = advice(best.problem or "", best.attempt.region, bool(self.masks), self.settings.second_try)
        if best.problem:
            raise InputError(best.problem + _tried(outcomes) + hints)
        model = best.model
        registered = {model.images[i].name for i in model.reg_image_ids()}
        missing = [name for key, name in names.items() if key not in registered]
        needed = self.settings.min_registered
        half = max(photos.MIN_PHOTOGRAPHS, round(len(names) / 2))
        few = explain_few_registered(missing, len(names), half if needed is None else needed)
        if few:
            raise InputError(few + _tried(outcomes) + (hints if missing else ""))
        pairs = zip(self.photographs, files, strict=True)
        own = {photo.name: path for photo, path in pairs if not photo.copied}
        found = from_model(model, self.work / PHOTOGRAPHS, str(best.folder))
        turns = {photo.name: photo.mask_turn for photo in self.photographs}
        still = best.attempt.region == BACKDROP
        views = []
        for view in found.views:
            name = names[view.name]
            image, mask = own.get(name, view.image), masks.get(name)
            certain = backdrop_file(self.work, view.name) if still else None
            view = replace(view, name=name, image=image, backdrop=certain)
            views.append(replace(view, mask=mask, mask_turn=turns[name]))
        notes = self._notes(model, missing)
        if len(outcomes) > 1:
            notes = (*notes, f"attempts: {'; '.join(map(str, outcomes))}")
        return replace(found, kind=photos.KIND, views=tuple(views), notes=notes)

    def _notes(self, model: Any, missing: list[str]) -> tuple[str, ...]:
        count = len(self.photographs)
        unregistered = f"; not registered: {', '.join(missing)}" if missing else ""
        notes = [
            f"registered {count - len(missing)} of {count} photographs{unregistered}",
            f"mean reprojection error {model.compute_mean_reprojection_error():.2f} pixels over "
            f"{model.num_points3D()} points with a mean track length of "
            f"{model.compute_mean_track_length():.1f}",
        ]
        for camera in model.cameras.values():
            values = ", ".join(f"{value:.6g}" for value in camera.params)
            notes.append(f"camera: {camera.model_name} {camera.params_info} = {values}")
        num_turned = sum(photo.turned != 0 or photo.mirrored for photo in self.photographs)
        if num_turned:
            turned = f"{num_turned} photograph{'s'[: num_turned > 1]} turned upright (EXIF)"
            notes.append(f"{turned}, or by 90 degrees to match the others")
        return tuple(notes)


def _masks_beside(files: list[Path], some: bool) -> dict[str, Path]:
    """The masks in or beside the folder of photographs, by photograph: all of them, unless `some` may do."""
    folder, pair = masks_beside(files), pair_some_masks if some else pair_masks
    masks = pair(files, list_masks(folder), folder) if folder else []
    return {path.name: mask for path, mask in zip(files, masks, strict=False) if mask is not None}


def _frames(
    video: Path, count: int, folder: Path, progress: Progress
) -> tuple[list[Path], dict[str, str]]:
    """Takes frames from a video unless it was done; returns them, and their names in place of hashes."""
    if not folder.is_dir():
        progress(f"taking the sharpest of each of {count} intervals of {video.name}")
        with whole_folder(folder) as unfinished:
            write_frames(video, count, unfinished)
    files = photos.checked_photographs(folder)
    return files, {path.name: path.name for path in files}


def _begin(work: Path, fingerprint: dict[str, Any], progress: Progress) -> None:
    """Creates the work folder, or drops its steps if they belong to other photographs or settings."""
    path, text = work / SETTINGS, json.dumps(fingerprint, indent=1) + "\n"
    if work.exists() and not path.is_file() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(
            f"{work} exists and is not a work folder of a reconstruction, which needs this name: move it away"
        )
    if path.is_file():
        for leftover in (*work.glob(".*.tmp"), *work.glob(f"{TRY}*/.*.tmp")):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        if path.read_bytes() == text.encode():
            done = [step for step in STEPS if (work / step).is_dir()]
            if done:
                progress(f"resuming {work} after its {done[-1]}")
            return
        progress(f"{work} has other photographs or settings: the reconstruction starts over")
        for step in (*work.glob(f"{TRY}*"), *(work / step for step in reversed(STEPS))):
            if step.is_dir():
                shutil.rmtree(step)
    write_text_atomic(path, text)


def _tried(outcomes: list[Outcome]) -> str:
    """How several attempts ended, as the end of a message; empty after a single one."""
    if len(outcomes) == 1:
        return ""
    if len({outcome.result for outcome in outcomes}) == 1:
        return f"; all {len(outcomes)} attempts ended so"
    return f"; tried: {'; '.join(map(str, outcomes))}"


def sequential_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, to match among `count` ordered photographs: neighbors, and evenly spaced ones."""
    pairs = {(i, j) for i in range(count) for j in range(i + 1, min(count, i + NEIGHBORS + 1))}
    keys = range(0, count, max(1, count // KEY_PHOTOGRAPHS))
    return sorted(pairs | {(i, j) for i in keys for j in keys if i < j})
