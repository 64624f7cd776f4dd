"""Names of the files of a checkpoint, and its manifest, which is written last.

    checkpoints/
        ModelParameters/100.pth      a folder for each part, as in the published code
        OptimizerParameters/100.pth  ...
        manifests/100.json           epoch, step, size and SHA-256 of each file: the set is complete

A set is complete if its manifest exists. In a folder of the published code, which has no `manifests/`, it is
complete if its ModelParameters exist.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from idr.checkpoints.schema import Kind, check, text, whole
from idr.files import read_json, write_text_atomic

log = logging.getLogger(__name__)

MODEL = "ModelParameters"
TRAINER = "TrainerState"
EXPOSURE = "ExposureState"

STATE_KEYS: Mapping[str, str | None] = {
    MODEL: "model_state_dict",
    "OptimizerParameters": "optimizer_state_dict",
    "SchedulerParameters": "scheduler_state_dict",
    "CamParameters": "pose_vecs_state_dict",
    "OptimizerCamParameters": "optimizer_cam_state_dict",
    TRAINER: None,
    "TracerState": None,
    "CameraState": None,
    "RecipeState": None,
    EXPOSURE: None,
}
"""Parts of a checkpoint, and the key of each besides `epoch`. The last five are not published."""

PARTS = tuple(STATE_KEYS)
LATEST = "latest"
MANIFESTS = "manifests"
FORMAT = 1

_NAME = re.compile(r"(\d+)(?:_(\d+))?")


@dataclass(frozen=True)
class FileRecord:
    """Size, in bytes, and hexadecimal SHA-256 digest of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A complete set.

    Attributes:
        name: `<epoch>`, `<epoch>_<step>` or `latest`.
        epoch: Epochs done.
        step: Steps done in the next epoch.
        serial: Number of the save in this folder. The largest is the latest, also after training continued
            from an earlier checkpoint; `latest` has the serial of the set that it copies.
        files: Records by part.
        staged: Whether files of a replaced set may still have their staging names.
    """

    name: str
    epoch: int
    step: int
    serial: int
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    staged: bool = False


def checkpoint_name(epoch: int, step: int = 0) -> str:
    """Returns the name of the set saved after `epoch` epochs and `step` steps of the next."""
    return f"{epoch}_{step}" if step else f"{epoch}"


def parse_name(name: str) -> tuple[int, int] | None:
    """Returns epoch and step of a set's name; None for `latest` and other names."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def part_file(root: Path, part: str, name: str) -> Path:
    """Returns the path of a part of a set, as in the published code."""
    return root / part / f"{name}.pth"


def staged_file(root: Path, part: str, name: str) -> Path:
    """Returns the path at which a part is staged before it replaces a file of a complete set."""
    return root / part / f".{name}.staged.pth"


def current_file(root: Path, part: str, manifest: Manifest) -> Path:
    """Returns the present path of a part of a set, whether its replacement is finished or not."""
    staged = staged_file(root, part, manifest.name)
    return staged if manifest.staged and staged.is_file() else part_file(root, part, manifest.name)


def manifest_file(root: Path, name: str) -> Path:
    """Returns the path of a set's manifest."""
    return root / MANIFESTS / f"{name}.json"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest atomically into the folder of manifests."""
    content = {"format": FORMAT, **asdict(manifest)}
    write_text_atomic(folder / f"{manifest.name}.json", json.dumps(content, indent=1) + "\n")


_SCHEMA = {key: whole() for key in ("epoch", "step", "serial")}
_SCHEMA["staged"] = Kind("true or false", lambda value: isinstance(value, bool))
_SCHEMA["files"] = Kind(
    "a dictionary of parts of a checkpoint",
    lambda value: isinstance(value, dict) and MODEL in value and set(value) <= set(PARTS),
)
_RECORD = {"size": whole(), "sha256": text()}


def read_manifest(root: Path, name: str) -> Manifest | None:
    """Returns a set's manifest; None if it is missing or, with a warning, cannot be read."""
    path = manifest_file(root, name)
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        check(content, _SCHEMA, str(path), "manifest")
        records = content["files"].items()
        for part, record in records:
            check(record, _RECORD, str(path), part)
        files = {part: FileRecord(record["size"], record["sha256"]) for part, record in records}
        epoch, step, serial = (int(content[key]) for key in ("epoch", "step", "serial"))
        return Manifest(name, epoch, step, serial, files, content["staged"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # of the file, of JSON, or of the schema
        log.warning("%s cannot be read (%s); its checkpoint does not count", path, error)
        return None


def complete_sets(root: Path) -> list[Manifest]:
    """Returns the manifests of a folder whose files all exist, in the order they were saved."""
    found = []
    for path in sorted((root / MANIFESTS).glob("*.json")):
        manifest = read_manifest(root, path.stem) if path.stem == LATEST or parse_name(path.stem) else None
        if manifest and all(current_file(root, part, manifest).is_file() for part in manifest.files):
            found.append(manifest)
    return sorted(found, key=lambda manifest: (manifest.serial, manifest.name != LATEST))


def published_names(root: Path) -> list[str]:
    """Returns the sets of a folder without manifests: numbers in order, then `latest`."""
    stems = [path.stem for path in (root / MODEL).glob("*.pth")] if (root / MODEL).is_dir() else []
    positions = {name: parse_name(name) for name in stems}
    numbered = sorted((position, name) for name, position in positions.items() if position)
    return [name for _, name in numbered] + ([LATEST] if LATEST in stems else [])


def record_file(path: Path) -> FileRecord:
    """Returns the size and the digest of a file."""
    content = path.read_bytes()
    return FileRecord(len(content), hashlib.sha256(content).hexdigest())
