"""Training of many scenes: what is to be done, a few at a time, with a table of how far each is."""

from __future__ import annotations

import csv
import io
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from idr.checkpoints.folder import CheckpointFolder
from idr.errors import MissingInputError
from idr.files import write_text_atomic
from idr.runs.folders import CHECKPOINTS, find_run
from idr.training.progress import MetricsFile

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
WAITING, RUNNING, DONE, DONE_BEFORE, STOPPED = "waiting", "running", "done", "done before", "stopped"
EXIT_INTERRUPTED = 130  # of a training that Ctrl-C ended, its state saved


@dataclass(frozen=True)
class Scene:
    """One training to be done.

    Attributes:
        scan: The scene's number.
        name: Its folder of runs, from `run_name`.
        command: What trains it, or goes on training it.
        log: Where the command's output goes.
    """

    scan: int
    name: str
    command: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Row:
    """A scene in the table.

    Attributes:
        scan: The scene's number.
        status: ``waiting``, ``running``, ``done``, ``done before``, ``stopped`` or ``failed (...)``.
        epochs: Passes over the images done, as saved.
        minutes: Time spent in training steps, interruptions included.
        psnr: Of the last epoch, over the shaded rays of the training views, dB.
        run: The run's folder.
    """

    scan: int
    status: str
    epochs: int = 0
    minutes: float | None = None
    psnr: float | None = None
    run: str = ""


class Job(Protocol):
    """A command that was started."""

    def poll(self) -> int | str | None:
        """Returns None while it runs, else its exit status, or in words how else it failed."""

    def interrupt(self) -> None:
        """Asks it to save and stop; a second time, to stop."""


class Launcher(Protocol):
    """Starts commands: on this machine, or on a cluster."""

    def start(self, command: Sequence[str], log: Path, slot: int) -> Job:
        """Starts a command.

        Args:
            command: Program and arguments.
            log: File that its output is added to.
            slot: Which of the jobs that run at once this is, counted from 0.
        """


def look_up(exps: Path, scene: Scene, status: str) -> Row:
    """Reads from its files how far a scene is.

    Args:
        exps: Folder of all runs.
        scene: The scene.
        status: What to say of it.

    Returns:
        Its row of the table; zero epochs where nothing is saved yet.
    """
    try:
        run = find_run(exps, scene.name)
    except MissingInputError:
        return Row(scene.scan, status)
    epochs = CheckpointFolder(run / CHECKPOINTS).epoch_of()
    rows = MetricsFile(run / "metrics.csv", first_epoch=sys.maxsize).rows
    last = rows[-1] if rows else {}
    minutes, psnr = (float(last[key]) if last.get(key) else None for key in ("minutes", "psnr"))
    return Row(scene.scan, status, epochs, minutes, psnr, str(run))


class SummaryTable:
    """``summary.csv`` and ``summary.md``: one row a scene, whole at every instant.

    Args:
        folder: Where they go.
        num_epochs: Where training ends, for the reader.
    """

    def __init__(self, folder: Path, num_epochs: int) -> None:
        self.folder, self.num_epochs = folder, num_epochs
        self.rows: dict[int, Row] = {}

    def put(self, *rows: Row) -> None:
        """Adds or replaces rows and writes both files."""
        self.rows |= {row.scan: row for row in rows}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), **_rounded(row)} for row in self.rows.values())
        write_text_atomic(self.folder / "summary.csv", text.getvalue())
        write_text_atomic(self.folder / "summary.md", self.to_markdown())

    def to_markdown(self) -> str:
        """Returns the table for people."""
        lines = ["| scan | status | epochs | minutes | PSNR in training | run |", "|---|---|---|---|---|---|"]
        for row in self.rows.values():
            short = _rounded(row)
            lines.append(
                f"| {row.scan} | {row.status} | {row.epochs} of {self.num_epochs} | {short['minutes']} "
                f"| {short['psnr']} | {row.run} |"
            )
        return "\n".join(lines) + "\n"


def _rounded(row: Row) -> dict[str, str]:
    """Returns minutes and PSNR as they are written."""
    return {
        "minutes": "" if row.minutes is None else f"{row.minutes:.1f}",
        "psnr": "" if row.psnr is None else f"{row.psnr:.2f}",
    }


class SceneQueue:
    """Trains scenes, a number of them at a time; one that fails stops no other.

    Args:
        scenes: The scenes, in the order in which they start.
        exps: Folder of all runs.
        launcher: Starts them.
        jobs: How many run at once.
        table: Told of every change.
    """

    def __init__(
        self, scenes: Sequence[Scene], exps: Path, launcher: Launcher, jobs: int, table: SummaryTable
    ) -> None:
        self.exps, self.launcher, self.jobs, self.table = exps, launcher, jobs, table
        table.put(*(look_up(exps, scene, WAITING) for scene in scenes))
        done = [scene for scene in scenes if table.rows[scene.scan].epochs >= table.num_epochs]
        for scene in done:
            self._tell(scene, DONE_BEFORE)
        self.waiting = deque(scene for scene in scenes if scene not in done)
        self._running: dict[int, tuple[Scene, Job]] = {}  # by slot
        self._stops_asked = self._stops_passed_on = 0

    def run(self) -> bool:
        """Trains until all have ended or Ctrl-C stopped them.

        Returns:
            Whether Ctrl-C or a termination stopped it.
        """
        with self._signals():
            try:
                while self._running or (self.waiting and not self._stops_asked):
                    if self._stops_asked > self._stops_passed_on:
                        self._stops_passed_on = self._stops_asked
                        self._interrupt()
                    elif not self._stops_asked:
                        self._start()
                    self._collect()
                    time.sleep(POLL_SECONDS)
            except BaseException:  # such as a full disk: what runs is not left behind
                self._interrupt()
                raise
        return self._stops_asked > 0

    def _interrupt(self) -> None:
        for _, job in self._running.values():
            job.interrupt()

    def _collect(self) -> None:
        """Empties the slots of scenes that have ended."""
        for slot, (scene, job) in list(self._running.items()):
            status = job.poll()
            if status is not None:
                del self._running[slot]
                self._tell(scene, _in_words(status))

    def _start(self) -> None:
        """Fills the free slots."""
        for slot in range(self.jobs):
            if slot not in self._running and self.waiting:
                scene = self.waiting.popleft()
                self._running[slot] = scene, self.launcher.start(scene.command, scene.log, slot)
                self._tell(scene, RUNNING)

    def _tell(self, scene: Scene, status: str) -> None:
        """Brings a scene's row up to date and logs what is new."""
        row = look_up(self.exps, scene, status)
        self.table.put(row)
        if status == RUNNING:
            log.info("scan %d: started; its output goes to %s", scene.scan, scene.log)
            return
        psnr = "" if row.psnr is None else f", PSNR in training {row.psnr:.2f} dB"
        message = f"scan {scene.scan}: {status}, {row.epochs} of {self.table.num_epochs} epochs{psnr}"
        if status.startswith("failed"):
            log.warning("%s: %s", message, _last_words(scene.log))
        else:
            log.info("%s", message)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Notes Ctrl-C and termination, to be passed on."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._stops_asked += 1
            log.warning("stopping: each scene saves; once more to stop without saving")

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _in_words(status: int | str) -> str:
    """Returns how a training ended, for the table."""
    if isinstance(status, str):
        return f"failed ({status})"
    if status < 0:
        return f"failed (signal {-status})"
    return {0: DONE, EXIT_INTERRUPTED: STOPPED}.get(status, f"failed (exit status {status})")


def _last_words(path: Path) -> str:
    """Returns the last line of a log that is not empty."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def ended_well(rows: Sequence[Row]) -> bool:
    """Whether all scenes are trained to the end."""
    return all(row.status in (DONE, DONE_BEFORE) for row in rows)
