"""What makes several files one checkpoint: their names, and the manifest that is written last.

    checkpoints/
        ModelParameters/100.pth      one folder a part, as the published code has them
        OptimizerParameters/100.pth  ...
        manifests/100.json           epoch, step, size and SHA-256 of each file: the set is complete

In a folder with `manifests/` a set counts when its manifest is there; in one of the published code, which
has none, when its ModelParameters are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from idr.files import write_text_atomic

log = logging.getLogger(__name__)

MODEL = "ModelParameters"
TRAINER = "TrainerState"
TRACER = "TracerState"
CAMERAS = "CameraState"
RECIPE = "RecipeState"

STATE_KEYS: Mapping[str, str | None] = {
    MODEL: "model_state_dict",
    "OptimizerParameters": "optimizer_state_dict",
    "SchedulerParameters": "scheduler_state_dict",
    "CamParameters": "pose_vecs_state_dict",
    "OptimizerCamParameters": "optimizer_cam_state_dict",
    TRAINER: None,
    TRACER: None,
    CAMERAS: None,
    RECIPE: None,
}
"""Parts of a checkpoint, and the key beside `epoch` in each file. The last four are not published."""

PARTS = tuple(STATE_KEYS)
LATEST = "latest"
MANIFESTS = "manifests"
FORMAT = 1

_NAME = re.compile(r"(\d+)(?:_(\d+))?")


@dataclass(frozen=True)
class FileRecord:
    """One file of a set.

    Attributes:
        size: Bytes.
        sha256: Digest of the content, hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One complete set.

    Attributes:
        name: `<epoch>`, `<epoch>_<step>` or `latest`.
        epoch: Passes over the images that are done.
        step: Optimization steps done in the pass after those; 0 at its start.
        serial: Counts the saves in this folder. The last saved is the latest, also where somebody went back
            to an earlier checkpoint and trained on from there; a `latest` has the serial it is a copy of.
        files: By part.
        staged: True while files of a replaced set may still wait under their staging names.
    """

    name: str
    epoch: int
    step: int
    serial: int
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    staged: bool = False


def checkpoint_name(epoch: int, step: int = 0) -> str:
    """Names the set saved after `epoch` whole passes and `step` steps of the next.

    Args:
        epoch: Passes done.
        step: Steps done in the pass under way; 0 at an epoch's boundary.

    Returns:
        `<epoch>` or `<epoch>_<step>`.
    """
    return f"{epoch}_{step}" if step else f"{epoch}"


def parse_name(name: str) -> tuple[int, int] | None:
    """Reads epoch and step from a set's name; None for `latest` and anything else."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def part_file(root: Path, part: str, name: str) -> Path:
    """Path of one part of a set, as the published code names it."""
    return root / part / f"{name}.pth"


def staged_file(root: Path, part: str, name: str) -> Path:
    """Path where a part waits that is to replace a file of a complete set."""
    return root / part / f".{name}.staged.pth"


def current_file(root: Path, part: str, manifest: Manifest) -> Path:
    """Path at which a part of a set lies now, its replacement finished or not."""
    staged = staged_file(root, part, manifest.name)
    return staged if manifest.staged and staged.is_file() else part_file(root, part, manifest.name)


def manifest_file(root: Path, name: str) -> Path:
    """Path of a set's manifest."""
    return root / MANIFESTS / f"{name}.json"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest in one step.

    Args:
        folder: The folder of manifests.
        manifest: What to write.

    Raises:
        OutputError: The system refuses.
    """
    content = {"format": FORMAT, **asdict(manifest)}
    write_text_atomic(folder / f"{manifest.name}.json", json.dumps(content, indent=1) + "\n")


def read_manifest(root: Path, name: str) -> Manifest | None:
    """Reads a set's manifest.

    Args:
        root: The checkpoints folder.
        name: The set.

    Returns:
        The manifest; None where there is none, or none that can be read (a warning says so).
    """
    path = manifest_file(root, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        epoch, step, serial = (int(content[key]) for key in ("epoch", "step", "serial"))
        records = content["files"].items()
        files = {part: FileRecord(int(record["size"]), str(record["sha256"])) for part, record in records}
        return Manifest(name, epoch, step, serial, files, bool(content["staged"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s); its checkpoint does not count", path, error)
        return None


def complete_sets(root: Path) -> list[Manifest]:
    """Lists the complete sets of a folder with manifests, in the order they were saved.

    Args:
        root: The checkpoints folder.

    Returns:
        Manifests whose files are all there; their content is not looked at.
    """
    found = []
    for path in sorted((root / MANIFESTS).glob("*.json")):
        manifest = read_manifest(root, path.stem) if path.stem == LATEST or parse_name(path.stem) else None
        if manifest and all(current_file(root, part, manifest).is_file() for part in manifest.files):
            found.append(manifest)
    return sorted(found, key=lambda manifest: (manifest.serial, manifest.name != LATEST))


def published_names(root: Path) -> list[str]:
    """Lists the sets of a folder by their files alone: numbers in order, then `latest`."""
    stems = [path.stem for path in (root / MODEL).glob("*.pth")] if (root / MODEL).is_dir() else []
    positions = {name: parse_name(name) for name in stems}
    numbered = sorted((position, name) for name, position in positions.items() if position)
    return [name for _, name in numbered] + ([LATEST] if LATEST in stems else [])


def record_file(path: Path) -> FileRecord:
    """Measures a file: size and digest.

    Args:
        path: The file.

    Returns:
        Its record.
    """
    digest = hashlib.sha256()
    size = 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size += len(chunk)
    return FileRecord(size, digest.hexdigest())


def _chunks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(size):
            yield chunk


def remove_file(path: Path) -> None:
    """Removes a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
