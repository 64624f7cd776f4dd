"""The steps of a chain: which are done, with which inputs, kept between calls; and errors that end it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from idr.cli.shared.common import EXIT_INTERRUPTED, EXIT_STOPPED
from idr.files import write_text_atomic

FOLDER = "steps"
FORMAT = 1
"""Version of the steps; increase it when a step gives other outputs for equal inputs."""


def fingerprint(*inputs: Any) -> str:
    """Returns a digest of JSON-like values."""
    text = json.dumps([FORMAT, *inputs], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def files_state(source: Path) -> list[tuple[str, int, int]]:
    """Returns relative name, size in bytes and modification time in ns of all files, in name order.

    Hidden files and folders in a folder are left out.
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
    """The files ``steps/<step>.json`` of a working folder, each written atomically when its step is done."""

    def __init__(self, folder: Path, steps: Sequence[str]) -> None:
        self.folder, self.steps = folder / FOLDER, tuple(steps)

    def result(self, step: str, inputs: str, outputs: Sequence[Path] = ()) -> dict[str, Any] | None:
        """Returns the result of a step, or None if it has to be run.

        It has to be if the `fingerprint` of its inputs is another one, or one of the outputs is missing.
        """
        try:
            marker = json.loads((self.folder / f"{step}.json").read_text())
            fits = marker["inputs"] == inputs and all(path.exists() for path in outputs)
            return dict(marker["result"]) if fits else None
        except (OSError, ValueError, KeyError, TypeError):  # missing, or of another version
            return None

    def finish(self, step: str, inputs: str, result: Mapping[str, Any], minutes: float = 0.0) -> None:
        """Records a step as done: the `fingerprint` of its inputs, its JSON-like result, its wall time."""
        text = json.dumps({"inputs": inputs, "result": dict(result), "minutes": round(minutes, 4)}, indent=2)
        write_text_atomic(self.folder / f"{step}.json", text + "\n")

    def give_up(self, step: str, inputs: str, minutes: float) -> None:
        """Records the wall time of an interrupted step, in addition to that of earlier calls."""
        total = round(minutes + self.minutes_before(step, inputs), 4)
        text = json.dumps({"inputs": inputs, "minutes": total}, indent=2)
        write_text_atomic(self.folder / f"{step}.json", text + "\n")

    def minutes_before(self, step: str, inputs: str) -> float:
        """Returns the wall time of interrupted calls of a step with the same inputs."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            marker = json.loads((self.folder / f"{step}.json").read_text())
            if marker["inputs"] == inputs and "result" not in marker:
                return float(marker["minutes"])
        return 0.0

    def minutes(self, *steps: str) -> float:
        """Returns the wall time of steps when they were last done; 0 for one that was not."""
        total = 0.0
        for step in steps:
            with suppress(OSError, ValueError, KeyError, TypeError):
                total += float(json.loads((self.folder / f"{step}.json").read_text())["minutes"])
        return total

    def forget_from(self, step: str) -> None:
        """Removes the results of a step and of all later ones."""
        for name in self.steps[self.steps.index(step) :]:
            (self.folder / f"{name}.json").unlink(missing_ok=True)


class StoppedError(Exception):
    """A step ended the chain; the reason is its name and the remedy."""

    def __init__(self, step: str, reason: str, status: int = EXIT_STOPPED) -> None:
        super().__init__(f"stopped at {step}: {reason}")
        self.status = status


def require_success(step: str, status: int, reason: str) -> None:
    """Ends the chain with `StoppedError` unless the exit status of a step's command is 0.

    The reason is its name and the remedy, for a command that was not interrupted.
    """
    if status == EXIT_INTERRUPTED:
        raise StoppedError(step, "interrupted: finished steps are kept", EXIT_INTERRUPTED)
    if status:
        raise StoppedError(step, reason)
