"""The checkpoints of a run: lists, reads and saves them.

Reading never runs code of a file. While `save` works, a complete checkpoint exists at every moment, see
`idr.checkpoints.saving`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from idr.checkpoints import saving
from idr.checkpoints.format import DamagedFileError, read_content
from idr.checkpoints.manifests import (
    LATEST,
    MANIFESTS,
    MODEL,
    PARTS,
    STATE_KEYS,
    checkpoint_name,
    complete_sets,
    current_file,
    part_file,
    published_names,
    read_manifest,
    record_file,
)
from idr.checkpoints.schema import check, whole
from idr.errors import InputError, MissingInputError

__all__ = ["LATEST", "PARTS", "STATE_KEYS", "CheckpointFolder", "checkpoint_name"]

log = logging.getLogger(__name__)


class CheckpointFolder:
    """The folder `checkpoints/` of a run, ours or the published code's.

    Attributes:
        path: The folder; it may not exist before the first save.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def names(self) -> list[str]:
        """Returns the names of the complete sets in the order they were saved.

        `latest` is among them only if it is not a copy of a numbered set.
        """
        if not (self.path / MANIFESTS).is_dir():
            return published_names(self.path)
        manifests = complete_sets(self.path)
        numbered = {manifest.serial for manifest in manifests if manifest.name != LATEST}
        return [m.name for m in manifests if m.name != LATEST or m.serial not in numbered]

    def resolve(self, name: str | int = LATEST) -> str:
        """Finds a checkpoint.

        Args:
            name: `latest`, a number, or `<epoch>_<step>`.

        Returns:
            The set's name. For `latest` it is the complete set saved last; in a folder of the published code,
            its `latest`, else the largest number.

        Raises:
            MissingInputError: It does not exist or is incomplete; the message lists the complete ones.
        """
        name = str(name)
        names = self.names()
        if name == LATEST and names:
            return names[-1]
        if name in names:
            return name
        there = "there is no complete checkpoint; train first, or name another run"
        if names:
            there = f"complete checkpoints there: {', '.join(names)}; choose one of these"
        reason = "does not exist"
        if any(part_file(self.path, part, name).is_file() for part in PARTS):
            reason = "is incomplete: its save was cut short, or files were removed"
        raise MissingInputError(f"checkpoint {name} in {self.path} {reason}; {there}")

    def has(self, part: str, name: str | int = LATEST) -> bool:
        """Whether a checkpoint, named as for `resolve`, exists and has a part of `PARTS`."""
        try:
            resolved = self.resolve(name)
        except MissingInputError:
            return False
        manifest = read_manifest(self.path, resolved)
        return part in manifest.files if manifest else part_file(self.path, part, resolved).is_file()

    def position_of(self, name: str | int = LATEST) -> tuple[int, int]:
        """Returns (epochs done, steps done in the next), from the manifest or else from the file."""
        resolved = self.resolve(name)
        manifest = read_manifest(self.path, resolved)
        return (manifest.epoch, manifest.step) if manifest else (int(self.load(MODEL, resolved)["epoch"]), 0)

    def epoch_of(self, name: str | int = LATEST) -> int:
        """Returns the number of epochs done."""
        return self.position_of(name)[0]

    def load(
        self, part: str, name: str | int = LATEST, map_location: str | torch.device | None = "cpu"
    ) -> dict[str, Any]:
        """Reads one of `PARTS` of a checkpoint, tensors and plain values only; `name` is as for `resolve`.

        The dictionary has `epoch` and the part's key of `STATE_KEYS`.

        Raises:
            MissingInputError: No such checkpoint, or it lacks this part.
            InputError: The file is damaged (the message names the last good checkpoint), would run code, or
                is not this part.
        """
        resolved = self.resolve(name)
        manifest = read_manifest(self.path, resolved)
        path = current_file(self.path, part, manifest) if manifest else part_file(self.path, part, resolved)
        if not path.is_file() or (manifest and part not in manifest.files):
            present = [other for other in PARTS if self.has(other, resolved)]
            raise MissingInputError(
                f"checkpoint {resolved} in {self.path} holds no {part}, only {', '.join(present)}; "
                "choose another checkpoint, or start training anew"
            )
        if manifest and record_file(path) != manifest.files[part]:
            raise InputError(f"{path}: damaged, not as it was saved{self._other_good(resolved)}")
        try:
            content = read_content(path, map_location)
        except DamagedFileError as error:
            raise InputError(f"{error}{self._other_good(resolved)}") from error
        key = STATE_KEYS[part]
        if not isinstance(content, dict) or not {"epoch", key} - {None} <= content.keys():
            raise InputError(f"{path}: is no {part} file; expected a dictionary with epoch and {key}")
        check(content, {"epoch": whole()}, f"checkpoint {resolved} in {self.path}", part)
        return content

    def load_all(
        self, name: str | int = LATEST, map_location: str | torch.device | None = "cpu"
    ) -> dict[str, dict[str, Any]]:
        """Reads all parts of a checkpoint by name, see `load`, and checks that they are of one epoch.

        Raises:
            MissingInputError: No such checkpoint.
            InputError: As for `load`, or the parts are of several epochs (a published run stopped while
                saving).
        """
        resolved = self.resolve(name)
        parts = {part: self.load(part, resolved, map_location) for part in PARTS if self.has(part, resolved)}
        epochs = {part: int(content["epoch"]) for part, content in parts.items()}
        if len(set(epochs.values())) > 1:
            listing = ", ".join(f"{part} {epoch}" for part, epoch in epochs.items())
            raise InputError(
                f"checkpoint {resolved} in {self.path} mixes epochs ({listing}): its save was cut short"
                f"{self._other_good(resolved)}"
            )
        return parts

    def save(
        self,
        name: str,
        epoch: int,
        step: int,
        parts: Mapping[str, dict[str, Any]],
        keep_last: int | None = None,
    ) -> None:
        """Saves a checkpoint atomically, under its number and as `latest`.

        Args:
            name: From `checkpoint_name`; a set of that name is replaced.
            epoch: Epochs done.
            step: Steps done in the next epoch.
            parts: The dictionary of each part (tensors and plain values); at least ModelParameters.
            keep_last: Number of numbered sets to keep, older ones are removed; None keeps all.

        Raises:
            OutputError: The system refuses; earlier checkpoints are unharmed, and the message names the last.
        """
        saving.save_set(self.path, name, epoch, step, parts, keep_last)

    def _other_good(self, damaged: str) -> str:
        for name in reversed(self.names()):
            if name != damaged and self._is_good(name):
                return f"; the last good checkpoint is {name}: use --checkpoint {name}"
        return "; there is no other good checkpoint in this run: get the file anew, or train again"

    def _is_good(self, name: str) -> bool:
        manifest = read_manifest(self.path, name)
        if manifest:
            files = {part: current_file(self.path, part, manifest) for part in manifest.files}
            return all(record_file(files[part]) == record for part, record in manifest.files.items())
        try:
            read_content(part_file(self.path, MODEL, name))
        except InputError:
            return False
        return True
