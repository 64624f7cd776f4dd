"""The steps of one attempt to reconstruct: features, matches, and a model, each kept in a folder."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idr.files import read_json, whole_folder, write_text_atomic
from idr.importers.photographs import source as photos
from idr.importers.photographs.attempts import EVERYWHERE, Attempt
from idr.importers.photographs.failures import explain_no_model, explain_one_viewpoint
from idr.importers.photographs.source import Photograph
from idr.importers.source import Progress
from idr.progress_bar import with_progress

FEATURES, MATCHES, MODEL = "features", "matches", "model"
DATABASE, FAILURE = "database.db", "failure.json"
"""Files: COLMAP's database, and in place of a model the reason why there is none."""
ENOUGH = 0.9
"""Share of the photographs that an attempt must register to be the last."""


@dataclass(frozen=True)
class Outcome:
    """Result of an attempt.

    Attributes:
        attempt: The attempt.
        folder: Folder of the model.
        model: COLMAP's largest model, None without one.
        problem: Why the model cannot be used, or why there is none; None for a sound one.
        count: Number of photographs.
    """

    attempt: Attempt
    folder: Path
    model: Any
    problem: str | None
    count: int

    @property
    def registered(self) -> int:
        """Number of photographs in the model."""
        return 0 if self.model is None else int(self.model.num_reg_images())

    @property
    def is_enough(self) -> bool:
        """Whether another attempt is needless."""
        return self.problem is None and self.registered >= ENOUGH * self.count

    @property
    def result(self) -> str:
        """The result in a few words."""
        if self.problem:
            return self.problem.partition(":")[0]
        return f"registered {self.registered} of {self.count} photographs"

    def __str__(self) -> str:
        return f"{self.attempt.title}: {self.result}"


@dataclass(frozen=True)
class Steps:
    """The steps of an attempt, each skipped if its result is in the attempt's folder.

    Attributes:
        pycolmap: The package.
        work: The work folder.
        photographs: The photographs.
        attempt: The attempt.
        pairs: Pairs of photographs to match; None for all.
        regions: Folder of the masks in which features may lie; None for everywhere.
        camera_model: COLMAP's name of the model of all cameras.
        seed: Seed of all random draws.
        threads: -1 for one per core.
        progress: Receives messages.
    """

    pycolmap: Any
    work: Path
    photographs: list[Photograph]
    attempt: Attempt
    pairs: list[tuple[int, int]] | None
    regions: Path | None
    camera_model: str
    seed: int
    threads: int
    progress: Progress

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.work / self.attempt.folder

    @property
    def names(self) -> dict[str, str]:
        """The user's file names by the names in the model, in natural order."""
        return {photos.work_name(k, photo): photo.name for k, photo in enumerate(self.photographs)}

    def run(self) -> Outcome:
        """Runs the steps that are not done."""
        if not (self.folder / MODEL).is_dir():
            self.find_features()
            self.match()
            self.register()
        count, folder = len(self.photographs), self.folder / MODEL
        if (folder / FAILURE).is_file():
            problem = read_json(folder / FAILURE)
            return Outcome(self.attempt, folder, None, problem, count)
        model = self.pycolmap.Reconstruction(str(folder))
        return Outcome(self.attempt, folder, model, explain_one_viewpoint(model), count)

    def find_features(self) -> None:
        """Extracts features; photographs with the same camera, lens and size share intrinsics."""
        done = (self.folder / FEATURES).is_dir() or (self.folder / MATCHES).is_dir()
        if done or self.attempt.base is not None:
            return
        groups: dict[tuple[str, tuple[int, int]], list[int]] = {}
        for k, photo in enumerate(self.photographs):
            groups.setdefault((photo.camera, photo.size), []).append(k)
        cameras = f"{len(groups)} camera{'s'[: len(groups) > 1]}"
        where = "" if self.attempt.region == EVERYWHERE else f" {self.attempt.region}"
        self.progress(f"extracting features{where} of {len(self.photographs)} photographs, {cameras}")
        longest = max(max(photo.size) for photo in self.photographs)
        options = self.attempt.extraction(self.pycolmap, self.threads, longest)
        with whole_folder(self.folder / FEATURES) as folder:
            for (_, size), members in groups.items():
                names = [photos.work_name(k, self.photographs[k]) for k in members]
                self.pycolmap.extract_features(
                    folder / DATABASE, self.work / photos.FOLDER, names, self.pycolmap.CameraMode.SINGLE,
                    self._reader(self.photographs[members[0]].focal, size), options, self.pycolmap.Device.cpu,
                )  # fmt: skip

    def _reader(self, focal: float | None, size: tuple[int, int]) -> Any:
        """Options that read photographs of one camera, from the focal length of EXIF if it has one."""
        reader = self.pycolmap.ImageReaderOptions()
        model = reader.camera_model = self.camera_model
        if self.regions is not None:
            reader.mask_path = self.regions
        if focal is not None:
            camera = self.pycolmap.Camera.create_from_model_name(0, model, focal, size[1], size[0])
            reader.camera_params = ", ".join(repr(float(value)) for value in camera.params)
        return reader

    def match(self) -> None:
        """Matches the pairs of photographs and verifies the matches."""
        if (self.folder / MATCHES).is_dir():
            return
        pycolmap, count = self.pycolmap, len(self.photographs)
        options = self.attempt.matching(pycolmap, self.threads)
        verification = self.attempt.verification(pycolmap, self.seed)
        pycolmap.set_random_seed(self.seed)
        with whole_folder(self.folder / MATCHES) as folder:
            if self.attempt.base is None:
                shutil.copyfile(self.folder / FEATURES / DATABASE, folder / DATABASE)
            else:  # its matches are only verified again
                shutil.copyfile(self.work / self.attempt.base / MATCHES / DATABASE, folder / DATABASE)
                with closing(pycolmap.Database.open(folder / DATABASE)) as opened:
                    opened.clear_two_view_geometries()
            num_pairs = count * (count - 1) // 2 if self.pairs is None else len(self.pairs)
            self.progress(f"matching {num_pairs} pairs of photographs")
            if self.pairs is None:
                match, pairing = pycolmap.match_exhaustive, pycolmap.ExhaustivePairingOptions()
            else:
                with closing(pycolmap.Database.open(folder / DATABASE)) as opened:
                    names = sorted(image.name for image in opened.read_all_images())
                listed = "".join(f"{names[i]} {names[j]}\n" for i, j in self.pairs)
                (folder / "pairs.txt").write_text(listed)
                match, pairing = pycolmap.match_image_pairs, pycolmap.ImportedPairingOptions()
                pairing.match_list_path = folder / "pairs.txt"
            match(folder / DATABASE, options, pairing, verification, pycolmap.Device.cpu)
        shutil.rmtree(self.folder / FEATURES, ignore_errors=True)  # the new database contains them

    def register(self) -> None:
        """Registers the photographs; keeps the largest of several disconnected models."""
        self.progress("registering the photographs")
        options = self.attempt.mapping(self.pycolmap, self.threads, self.seed, photos.MIN_PHOTOGRAPHS)
        self.pycolmap.set_random_seed(self.seed)
        database = self.folder / MATCHES / DATABASE
        with whole_folder(self.folder / MODEL) as folder:
            arguments = (database, self.work / photos.FOLDER, folder)
            if self.attempt.global_mapper:
                found = self.pycolmap.global_mapping(*arguments, options)
            else:
                steps = with_progress(self.photographs, "registering")
                found = self.pycolmap.incremental_mapping(
                    *arguments, options=options, next_image_callback=lambda: next(steps, None)
                )
            for path in folder.iterdir():
                shutil.rmtree(path)
            if found:
                largest = max(found.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()))
                largest.write_binary(str(folder))
            else:
                problem = explain_no_model(self.pycolmap, database, self.names)
                write_text_atomic(folder / FAILURE, json.dumps(problem))
