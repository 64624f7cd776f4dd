"""Structure from motion: cameras of photographs by COLMAP's mapper, through `pycolmap`, on the CPU.

Features, matches and model are computed in turn in a work folder. Each step's result is renamed into place
when complete, so a later call resumes after the last complete step.

World frame and unit are determined up to a similarity.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idr.datasets.masks import list_masks, masks_beside, pair_masks
from idr.errors import InputError
from idr.files import whole_folder, write_text_atomic
from idr.importers.colmap import from_model, import_pycolmap
from idr.importers.photographs import source as photos
from idr.importers.photographs.failures import refuse_few_registered, refuse_no_model, refuse_one_viewpoint
from idr.importers.photographs.source import Photograph
from idr.importers.photographs.video import NUM_FRAMES, write_frames
from idr.importers.source import Progress, Source
from idr.progress_bar import with_progress

MAX_EXHAUSTIVE = 80
"""Number of photographs up to which every pair is matched; 3160 pairs."""
NEIGHBORS, KEY_PHOTOGRAPHS = 10, 40
"""Sequential matching: photographs matched after each one, and evenly spaced ones matched with each other,
which closes an orbit."""
LONGEST_SIDE = 2000
"""Pixels to which larger photographs are reduced for feature extraction, which then doubles them."""
STEPS = (FRAMES, PHOTOGRAPHS, FEATURES, MATCHES, MODEL) = (
    *("frames", "photographs", "features", "matches", "model"),
)
SETTINGS, DATABASE = "reconstruction.json", "database.db"


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
    """

    camera_model: str = "SIMPLE_RADIAL"
    matching: str = "auto"
    min_registered: int | None = None
    seed: int = 0
    threads: int = -1
    frames: int | None = None


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
    files = [video] if video else photos.checked_photographs(source)
    digests, masks = photos.digests(files), {} if video else _masks_beside(files)
    # What determines the result; threads and `min_registered` do not.
    decisive: dict[str, Any] = {"camera_model": settings.camera_model, "matching": settings.matching}
    decisive |= {"seed": settings.seed, "frames": settings.frames or NUM_FRAMES if video else None}
    fingerprint = {"format": 3, "pycolmap": pycolmap.__version__, **decisive, "photographs": digests}
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
    steps = _Steps(pycolmap, work, photos.read_list(work / PHOTOGRAPHS), settings, progress)
    steps.find_features()
    steps.match()
    steps.register()
    found = steps.scene(files, masks)
    return replace(found, notes=(*found.notes, *notes))


def _masks_beside(files: list[Path]) -> dict[str, Path]:
    """The masks in a folder in or beside that of the photographs, by photograph; empty without one."""
    folder = masks_beside(files)
    masks = pair_masks(files, list_masks(folder), folder) if folder else []
    return {path.name: mask for path, mask in zip(files, masks, strict=False)}


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
        for leftover in work.glob(".*.tmp"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        if path.read_bytes() == text.encode():
            done = [step for step in STEPS if (work / step).is_dir()]
            if done:
                progress(f"resuming {work} after its {done[-1]}")
            return
        progress(f"{work} has other photographs or settings: the reconstruction starts over")
        for step in reversed(STEPS):
            if (work / step).is_dir():
                shutil.rmtree(work / step)
    write_text_atomic(path, text)


@dataclass(frozen=True)
class _Steps:
    """The steps of a reconstruction, each skipped if its result is in the work folder."""

    pycolmap: Any
    work: Path
    photographs: list[Photograph]
    settings: ReconstructionSettings
    progress: Progress

    @property
    def names(self) -> dict[str, str]:
        """The user's file names by the names in the model, in natural order."""
        return {photos.work_name(k, photo): photo.name for k, photo in enumerate(self.photographs)}

    def find_features(self) -> None:
        """Extracts features; photographs with the same camera, lens and size share intrinsics."""
        if (self.work / FEATURES).is_dir() or (self.work / MATCHES).is_dir():
            return
        groups: dict[tuple[str, tuple[int, int]], list[int]] = {}
        for k, photo in enumerate(self.photographs):
            groups.setdefault((photo.camera, photo.size), []).append(k)
        cameras = f"{len(groups)} camera{'s'[: len(groups) > 1]}"
        self.progress(f"extracting features of {len(self.photographs)} photographs, {cameras}")
        options = self.pycolmap.FeatureExtractionOptions()
        options.use_gpu, options.num_threads = False, self.settings.threads
        options.max_image_size = LONGEST_SIDE
        options.sift.estimate_affine_shape = True  # registers more photographs that are far apart
        with whole_folder(self.work / FEATURES) as folder:
            for (_, size), members in groups.items():
                names = [photos.work_name(k, self.photographs[k]) for k in members]
                self.pycolmap.extract_features(
                    folder / DATABASE, self.work / PHOTOGRAPHS, names, self.pycolmap.CameraMode.SINGLE,
                    self._reader(self.photographs[members[0]].focal, size), options, self.pycolmap.Device.cpu,
                )  # fmt: skip

    def _reader(self, focal: float | None, size: tuple[int, int]) -> Any:
        """Options that read photographs of one camera, from the focal length of EXIF if it has one."""
        reader = self.pycolmap.ImageReaderOptions()
        model = reader.camera_model = self.settings.camera_model
        if focal is not None:
            camera = self.pycolmap.Camera.create_from_model_name(0, model, focal, size[1], size[0])
            reader.camera_params = ", ".join(repr(float(value)) for value in camera.params)
        return reader

    def match(self) -> None:
        """Matches every pair of photographs, or the `sequential_pairs`, and verifies the matches."""
        if (self.work / MATCHES).is_dir():
            return
        pycolmap, count, matching = self.pycolmap, len(self.photographs), self.settings.matching
        every_pair = matching == "exhaustive" or (matching == "auto" and count <= MAX_EXHAUSTIVE)
        options, verification = pycolmap.FeatureMatchingOptions(), pycolmap.TwoViewGeometryOptions()
        options.use_gpu, options.num_threads = False, self.settings.threads
        verification.ransac.random_seed = self.settings.seed
        pycolmap.set_random_seed(self.settings.seed)
        with whole_folder(self.work / MATCHES) as folder:
            shutil.copyfile(self.work / FEATURES / DATABASE, folder / DATABASE)
            pairs = sequential_pairs(count)
            num_pairs = count * (count - 1) // 2 if every_pair else len(pairs)
            self.progress(f"matching {num_pairs} pairs of photographs")
            if every_pair:
                match, pairing = pycolmap.match_exhaustive, pycolmap.ExhaustivePairingOptions()
            else:
                with closing(pycolmap.Database.open(folder / DATABASE)) as opened:
                    names = sorted(image.name for image in opened.read_all_images())
                (folder / "pairs.txt").write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs))
                match, pairing = pycolmap.match_image_pairs, pycolmap.ImportedPairingOptions()
                pairing.match_list_path = folder / "pairs.txt"
            match(folder / DATABASE, options, pairing, verification, pycolmap.Device.cpu)
        shutil.rmtree(self.work / FEATURES)  # the new database contains them

    def register(self) -> None:
        """Registers the photographs incrementally; keeps the largest of several disconnected models."""
        if (self.work / MODEL).is_dir():
            return
        self.progress("registering the photographs")
        options = self.pycolmap.IncrementalPipelineOptions()
        options.num_threads, options.random_seed = self.settings.threads, self.settings.seed
        options.mapper.random_seed = options.triangulation.random_seed = self.settings.seed
        options.min_model_size = photos.MIN_PHOTOGRAPHS
        self.pycolmap.set_random_seed(self.settings.seed)
        database = self.work / MATCHES / DATABASE
        with whole_folder(self.work / MODEL) as folder:
            steps = with_progress(self.photographs, "registering")
            found = self.pycolmap.incremental_mapping(
                database, self.work / PHOTOGRAPHS, folder, options=options,
                next_image_callback=lambda: next(steps, None),
            )  # fmt: skip
            for path in folder.iterdir():
                shutil.rmtree(path)
            if not found:
                refuse_no_model(self.pycolmap, database, self.names)
            largest = max(found.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
            largest.write_binary(str(folder))

    def scene(self, files: list[Path], masks: dict[str, Path]) -> Source:
        """Checks the model and returns it as a source, with the user's files where they were not copied."""
        model, names = self.pycolmap.Reconstruction(str(self.work / MODEL)), self.names
        registered = {model.images[i].name for i in model.reg_image_ids()}
        missing = [name for key, name in names.items() if key not in registered]
        needed = self.settings.min_registered
        half = max(photos.MIN_PHOTOGRAPHS, round(len(names) / 2))
        refuse_few_registered(missing, len(names), half if needed is None else needed)
        refuse_one_viewpoint(model)
        pairs = zip(self.photographs, files, strict=True)
        own = {photo.name: path for photo, path in pairs if not photo.copied}
        found = from_model(model, self.work / PHOTOGRAPHS, str(self.work / MODEL))
        turns = {photo.name: photo.mask_turn for photo in self.photographs}
        views = []
        for view in found.views:
            name = names[view.name]
            image, mask = own.get(name, view.image), masks.get(name)
            views.append(replace(view, name=name, image=image, mask=mask, mask_turn=turns[name]))
        return replace(found, kind=photos.KIND, views=tuple(views), notes=self._notes(model, missing))

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


def sequential_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, to match among `count` ordered photographs: neighbors, and evenly spaced ones."""
    pairs = {(i, j) for i in range(count) for j in range(i + 1, min(count, i + NEIGHBORS + 1))}
    keys = range(0, count, max(1, count // KEY_PHOTOGRAPHS))
    return sorted(pairs | {(i, j) for i in keys for j in keys if i < j})
