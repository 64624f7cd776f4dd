"""What a chain of steps remembers between calls: which steps are done, and with which inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idr.files import write_text_atomic

FOLDER = "steps"
FORMAT = 1
"""Goes up whenever a step's outputs change with the same inputs."""


def fingerprint(*inputs: Any) -> str:
    """Returns a digest of JSON-like values."""
    text = json.dumps([FORMAT, *inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def files_state(source: Path) -> list[tuple[str, int, int]]:
    """Lists what a file or folder holds: relative name, bytes, and time of change of each file.

    Args:
        source: File or folder.

    Returns:
        In name order; hidden files and folders left out.
    """
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    states = []
    for path in files:
        name = path.name if path == source else path.relative_to(source).as_posix()
        if not any(part.startswith(".") for part in name.split("/")):
            about = path.stat()
            states.append((name, about.st_size, about.st_mtime_ns))
    return states


class Journal:
    """The markers of a working folder: ``steps/<step>.json``, each written in one go when its step is done.

    Args:
        folder: The working folder.
        steps: Names of the steps, in their order.
    """

    def __init__(self, folder: Path, steps: Sequence[str]) -> None:
        self.folder, self.steps = folder / FOLDER, tuple(steps)

    def result(self, step: str, inputs: str, outputs: Sequence[Path] = ()) -> dict[str, Any] | None:
        """Returns what a step left behind, if it was done with these inputs and its outputs are there.

        Args:
            step: Its name.
            inputs: `fingerprint` of all it depends on.
            outputs: Files that must exist.

        Returns:
            What `finish` was given, or None where the step is to be done.
        """
        try:
            marker = json.loads((self.folder / f"{step}.json").read_text())
            fits = marker["inputs"] == inputs and all(path.exists() for path in outputs)
            return dict(marker["result"]) if fits else None
        except (OSError, ValueError, KeyError, TypeError):  # none, or of another version: done anew
            return None

    def finish(self, step: str, inputs: str, result: Mapping[str, Any]) -> None:
        """Notes that a step is done.

        Args:
            step: Its name.
            inputs: `fingerprint` of all it depended on.
            result: What later steps depend on.
        """
        text = json.dumps({"inputs": inputs, "result": dict(result)}, indent=2)
        write_text_atomic(self.folder / f"{step}.json", text + "\n")

    def forget_from(self, step: str) -> None:
        """Forgets a step and all after it."""
        for name in self.steps[self.steps.index(step) :]:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
