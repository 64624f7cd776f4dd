"""Cameras of photographs by structure from motion: COLMAP's mapper, through `pycolmap`, on the CPU.

Features, matches and model are made one after the other in a folder of work files. Each step is written
beside its place and renamed into it when it is whole, so that a later call goes on after the last whole one.

N points. World frame and unit are the reconstruction's own: any similarity of the true ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idr.errors import InputError
from idr.files import whole_folder, write_text_atomic
from idr.importers.colmap import from_model, import_pycolmap
from idr.importers.photographs import source as photos
from idr.importers.photographs.failures import (
    refuse_few_registered,
    refuse_no_model,
    refuse_one_viewpoint,
)
from idr.importers.photographs.source import Photograph
from idr.importers.source import Source

CAMERA_MODELS = (
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "OPENCV_FISHEYE",
)
MATCHING = ("auto", "exhaustive", "sequential")
MOST_EXHAUSTIVE = 80
"""Photographs up to which every pair is matched; 3160 pairs."""
NEIGHBORS, KEY_PHOTOGRAPHS = 10, 40
"""Sequential matching: each photograph with so many that follow it, and about so many, evenly spaced, with
one another, which closes an orbit."""
LONGEST_SIDE = 2000
"""Larger photographs are reduced to it for the search of features, which doubles them again."""
REGISTERED_SHARE = 0.5
"""Share of the photographs that must find their place, unless told otherwise."""
SETTINGS, PHOTOGRAPHS, FEATURES, MATCHES, MODEL = (
    "reconstruction.json",
    "photographs",
    "features",
    "matches",
    "model",
)
STEPS = (PHOTOGRAPHS, FEATURES, MATCHES, MODEL)
DATABASE = "database.db"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to reconstruct.

    Attributes:
        camera_model: One of `CAMERA_MODELS`, for all cameras.
        matching: `exhaustive`, `sequential` (photographs in the order of their names) or `auto`, by number.
        min_registered: Photographs that must find their place; None for half of them.
        seed: Of all random draws.
        threads: -1 for one a core; with 1 the same photographs give the same cameras, bit by bit.
    """

    camera_model: str = "SIMPLE_RADIAL"
    matching: str = "auto"
    min_registered: int | None = None
    seed: int = 0
    threads: int = -1


def reconstruct(source: Path, work: Path, settings: Settings, tell: Tell) -> Source:
    """Finds the cameras of photographs.

    Args:
        source: Folder of the photographs.
        work: Folder of the work files; made, or gone on with if it is of the same photographs and settings.
        settings: How.
        tell: Called with a line of progress now and then.

    Returns:
        The scene: the photographs of the largest model, upright, with their lenses, and its sparse points.

    Raises:
        MissingInputError: No photographs, or pycolmap is not installed.
        InputError: Too few or unreadable photographs, ones that do not overlap or were taken from one place,
            or fewer in the model than asked for.
        OutputError: The system refuses to write.
    """
    pycolmap = import_pycolmap()
    files = photos.checked_photographs(source)
    digests = photos.digests(files)
    _begin(work, _fingerprint(digests, settings, pycolmap.__version__), tell)
    if not (work / PHOTOGRAPHS).is_dir():
        with whole_folder(work / PHOTOGRAPHS) as folder:
            photos.prepare(files, digests, folder)
    taken = photos.read_list(work / PHOTOGRAPHS)
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)  # what fails is said by ourselves
    _find_features(pycolmap, work, taken, settings, tell)
    _match(pycolmap, work, len(taken), settings, tell)
    _map(pycolmap, work, taken, settings, tell)
    model = pycolmap.Reconstruction(str(work / MODEL))
    refuse_few_registered(model, _names(taken), _needed(settings, len(taken)))
    refuse_one_viewpoint(model)
    return _scene(model, work, files, taken)


def _fingerprint(digests: dict[str, str], settings: Settings, version: str) -> dict[str, Any]:
    """Everything that decides the result; threads and the number asked for afterwards do not."""
    decisive = {"camera_model": settings.camera_model, "matching": settings.matching, "seed": settings.seed}
    return {"format": 2, "pycolmap": version, **decisive, "photographs": digests}


def _begin(work: Path, fingerprint: dict[str, Any], tell: Tell) -> None:
    """Makes the work folder, or keeps those steps in it that are of the same photographs and settings."""
    path = work / SETTINGS
    if work.exists() and not path.is_file() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(
            f"{work} exists and holds no reconstruction; it is needed for the work files: move it away"
        )
    if path.is_file():
        for left in work.glob(".*.tmp"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        if _read_json(path) == fingerprint:
            done = [step for step in STEPS if (work / step).is_dir()]
            if done:
                tell(f"going on with {work} after its {done[-1]}")
            return
        tell(f"{work} is of other photographs or settings: reconstruction starts anew")
        for step in reversed(STEPS):
            if (work / step).is_dir():
                shutil.rmtree(work / step)
    write_text_atomic(path, json.dumps(fingerprint, indent=1) + "\n")


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _find_features(
    pycolmap: Any, work: Path, taken: list[Photograph], settings: Settings, tell: Tell
) -> None:
    """Features of all photographs; those of one camera, lens and size share their intrinsics."""
    if (work / FEATURES).is_dir() or (work / MATCHES).is_dir():
        return
    groups: dict[tuple[str, tuple[int, int]], list[int]] = {}
    for k, photo in enumerate(taken):
        groups.setdefault((photo.camera, photo.size), []).append(k)
    tell(f"features of {len(taken)} photographs, {len(groups)} camera{'s'[: len(groups) > 1]}")
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads, options.max_image_size = False, settings.threads, LONGEST_SIDE
    options.sift.estimate_affine_shape = True  # places more of the photographs that are far apart
    with whole_folder(work / FEATURES) as folder:
        for (_, size), members in groups.items():
            reader = pycolmap.ImageReaderOptions()
            reader.camera_model = settings.camera_model
            focal = taken[members[0]].focal
            if focal is not None:
                camera = pycolmap.Camera.create_from_model_name(
                    0, settings.camera_model, focal, size[1], size[0]
                )
                reader.camera_params = ", ".join(repr(float(value)) for value in camera.params)
            pycolmap.extract_features(
                folder / DATABASE,
                work / PHOTOGRAPHS,
                [photos.work_name(k, taken[k]) for k in members],
                pycolmap.CameraMode.SINGLE,
                reader,
                options,
                pycolmap.Device.cpu,
            )


def _match(pycolmap: Any, work: Path, count: int, settings: Settings, tell: Tell) -> None:
    if (work / MATCHES).is_dir():
        return
    every_pair = settings.matching == "exhaustive" or (
        settings.matching == "auto" and count <= MOST_EXHAUSTIVE
    )
    options, verification = pycolmap.FeatureMatchingOptions(), pycolmap.TwoViewGeometryOptions()
    options.use_gpu, options.num_threads = False, settings.threads
    verification.ransac.random_seed = settings.seed
    pycolmap.set_random_seed(settings.seed)
    with whole_folder(work / MATCHES) as folder:
        shutil.copyfile(work / FEATURES / DATABASE, folder / DATABASE)
        pairs = None if every_pair else sequential_pairs(count)
        tell(f"matching {count * (count - 1) // 2 if pairs is None else len(pairs)} pairs of photographs")
        if pairs is None:
            pairing = pycolmap.ExhaustivePairingOptions()
            pycolmap.match_exhaustive(folder / DATABASE, options, pairing, verification, pycolmap.Device.cpu)
        else:
            names = _image_names(pycolmap, folder / DATABASE)
            (folder / "pairs.txt").write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs))
            pairing = pycolmap.ImportedPairingOptions()
            pairing.match_list_path = folder / "pairs.txt"
            pycolmap.match_image_pairs(folder / DATABASE, options, pairing, verification, pycolmap.Device.cpu)
    shutil.rmtree(work / FEATURES)  # the new database holds them, too


def sequential_pairs(count: int) -> list[tuple[int, int]]:
    """Lists the pairs to match of photographs taken one after the other.

    Args:
        count: Photographs.

    Returns:
        Pairs (i, j), i < j: each with its neighbors, and evenly spaced ones with one another.
    """
    pairs = {(i, j) for i in range(count) for j in range(i + 1, min(count, i + NEIGHBORS + 1))}
    keys = range(0, count, max(1, count // KEY_PHOTOGRAPHS))
    return sorted(pairs | {(i, j) for i in keys for j in keys if i < j})


def _image_names(pycolmap: Any, database: Path) -> list[str]:
    opened = pycolmap.Database.open(database)
    try:
        return sorted(image.name for image in opened.read_all_images())
    finally:
        opened.close()


def _map(pycolmap: Any, work: Path, taken: list[Photograph], settings: Settings, tell: Tell) -> None:
    """Places the photographs one by one; of several models that do not connect, the largest is kept."""
    if (work / MODEL).is_dir():
        return
    tell("placing the photographs")
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = settings.threads, settings.seed
    options.mapper.random_seed = options.triangulation.random_seed = settings.seed
    options.min_model_size = photos.FEWEST
    pycolmap.set_random_seed(settings.seed)
    with whole_folder(work / MODEL) as folder:
        found = pycolmap.incremental_mapping(
            work / MATCHES / DATABASE, work / PHOTOGRAPHS, folder, options=options
        )
        for path in folder.iterdir():
            shutil.rmtree(path)
        if not found:
            refuse_no_model(pycolmap, work / MATCHES / DATABASE, _names(taken))
        largest = max(found.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
        largest.write_binary(str(folder))


def _needed(settings: Settings, count: int) -> int:
    if settings.min_registered is not None:
        return settings.min_registered
    return max(photos.FEWEST, round(REGISTERED_SHARE * count))


def _names(taken: list[Photograph]) -> dict[str, str]:
    """User's names by the names in the model, in natural order."""
    return {photos.work_name(k, photo): photo.name for k, photo in enumerate(taken)}


def _scene(model: Any, work: Path, files: list[Path], taken: list[Photograph]) -> Source:
    """The model as a source, its photographs by the user's names."""
    names = _names(taken)
    own = {photo.name: path for photo, path in zip(taken, files, strict=True) if not photo.copied}
    found = from_model(model, work / PHOTOGRAPHS, str(work / MODEL))
    views = tuple(
        replace(view, name=names[view.name], image=own.get(names[view.name], view.image))
        for view in found.views
    )
    return replace(found, kind=photos.KIND, views=views, notes=_notes(model, taken))


def _notes(model: Any, taken: list[Photograph]) -> tuple[str, ...]:
    registered = {model.images[i].name for i in model.reg_image_ids()}
    missing = [name for key, name in _names(taken).items() if key not in registered]
    without = f"; no place found for {', '.join(missing)}" if missing else ""
    notes = [
        f"registered {len(registered)} of {len(taken)} photographs{without}",
        f"mean reprojection error {model.compute_mean_reprojection_error():.2f} pixels of "
        f"{model.num_points3D()} points, seen {model.compute_mean_track_length():.1f} times each",
    ]
    for camera in model.cameras.values():
        values = ", ".join(f"{value:.6g}" for value in camera.params)
        notes.append(f"camera: {camera.model_name} {camera.params_info} = {values}")
    quarter = sum(photo.turned != 0 or photo.mirrored for photo in taken)
    if quarter:
        photographs = "1 photograph" if quarter == 1 else f"{quarter} photographs"
        notes.append(f"{photographs} turned upright (EXIF), or by a quarter to the shape of most")
    return tuple(notes)
