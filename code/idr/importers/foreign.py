"""Names the camera files of programs whose formats are not read, and how to convert them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from idr.files import read_json
from idr.importers.numpy_folders import IDR_FILE, NEUS_FILE

MAX_JSON_BYTES = 100_000_000
LIKE_CAMERAS = re.compile(
    r"camera|intrinsic|extrinsic|calib|trajector|transform|(^|_)(cams?|poses?)(_|$)", re.IGNORECASE
)
DATA_ENDINGS = (".txt", ".json", ".npz", ".npy", ".xml", ".yaml", ".yml", ".csv", ".mat", ".pkl", ".bin")
Probe = Callable[[Path], bool]


def _begins(*texts: str) -> Probe:
    """Whether one of the texts is within the first bytes of a file."""

    def probe(path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(2048).replace(b"\0", b"").lower()  # UTF-16, too
        return any(text.encode() in head for text in texts)

    return probe


def _any(path: Path) -> bool:
    return True


FORMATS: tuple[tuple[str, Probe, str, str], ...] = (
    ("*.xml", _begins("<chunk", "<calibration"), "Agisoft Metashape",
     "export its cameras as COLMAP, or convert it with nerfstudio's ns-process-data metashape"),
    ("*.psx", _any, "Agisoft Metashape", "export its cameras as COLMAP"),
    ("*.csv", _begins("#name,x,y"), "RealityCapture",
     "export as COLMAP, or convert it with nerfstudio's ns-process-data realitycapture"),
    ("poses_bounds.npy", _any, "LLFF", "pass the COLMAP model from which it was made"),
    ("*.out", _begins("# bundle file"), "Bundler", "export as COLMAP from the program that wrote it"),
    ("*.nvm", _any, "VisualSFM", "export as COLMAP instead, or calibrate with COLMAP"),
    ("*.sfm", _any, "Meshroom", "export as COLMAP with Meshroom's node ExportColmap"),
    ("sfm_data*", _any, "OpenMVG", "convert it with openMVG_main_openMVG2Colmap"),
    ("reconstruction.json", _any, "OpenSfM", "convert it with opensfm export_colmap"),
    ("keyframes", Path.is_dir, "Polycam", "convert it with nerfstudio's ns-process-data polycam"),
    ("*.r3d", _any, "Record3D", "convert it with nerfstudio's ns-process-data record3d"),
    ("pose/*.txt", _any, "NSVF", "write its poses as transforms.json, see DATA_CONVENTION.md"),
    ("sparse", Path.is_dir, "COLMAP", "a model needs both cameras and images, .bin or .txt"),
    ("Calibration/cal*", Path.is_dir, "DTU",
     "pass Calibration/cal18 as SOURCE and --images Rectified/scan<N>"),
)  # fmt: skip
"""Pattern of the file's name, a look into it, the program, the way to convert."""


def find_cameras(source: Path) -> list[str]:
    """Returns a clause for each camera file of a folder, or for the file itself: how to convert it."""
    found = []
    for pattern, probe, program, remedy in FORMATS:
        paths = sorted(source.glob(pattern)) if source.is_dir() else [source] * source.match(pattern)
        first = next((path for path in paths if _is(probe, path)), None)
        if first is not None:
            found.append(f"{first.name} of {program}: {remedy}")
    found += find_unnamed(source)
    return found or list(_files_of_cameras(source))[:3]


def find_unnamed(source: Path) -> list[str]:
    """Returns a clause for each JSON or npz of cameras in a folder that has none of the usual names."""
    return [*_json_with_frames(source), *_npz_of_cameras(source)]


def _is(probe: Probe, path: Path) -> bool:
    try:
        return probe(path)
    except OSError:
        return False


def _json_with_frames(source: Path) -> Iterator[str]:
    for path in sorted(source.glob("*.json")) if source.is_dir() else []:
        try:
            if path.stat().st_size < MAX_JSON_BYTES and isinstance(content := read_json(path), dict):
                if isinstance(content.get("frames"), list):
                    yield f"{path.name} has `frames`, as transforms.json: pass {path} as SOURCE"
        except (OSError, ValueError):
            continue


def _files_of_cameras(source: Path) -> Iterator[str]:
    """Files whose names, or whose folders' names, say that they have cameras."""
    for path in sorted([*source.glob("*"), *source.glob("*/*")]):
        names = [path.stem] if path.parent == source else [path.stem, path.parent.name]
        if any(map(LIKE_CAMERAS.search, names)) and path.suffix.lower() in DATA_ENDINGS and path.is_file():
            yield f"{path.relative_to(source)} looks like cameras of a format that is not read"


def _npz_of_cameras(source: Path) -> Iterator[str]:
    for path in sorted(source.glob("*.npz")) if source.is_dir() else []:
        try:
            with np.load(path, allow_pickle=False) as archive:
                has_cameras = any(name.startswith("world_mat") for name in archive.files)
        except Exception:  # numpy and zipfile raise arbitrary exceptions on files that are no npz
            continue
        if has_cameras and path.name in (NEUS_FILE, IDR_FILE):
            yield f"{path.name} holds cameras: pass the folder of its images with --images"
        elif has_cameras:
            yield f"{path.name} holds cameras: copy it as {IDR_FILE} and put its images in image/"
