"""Training of many scenes: a queue that trains several at a time, and a table of their progress."""

from __future__ import annotations

import csv
import io
import logging
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from idr.checkpoints.folder import CheckpointFolder
from idr.errors import InputError, MissingInputError
from idr.files import write_text_atomic
from idr.many_scenes.launchers import ClusterJob, ClusterLauncher, ProcessJob, ProcessLauncher
from idr.runs.folders import CHECKPOINTS, find_run, read_metrics
from idr.training.stopping import stop_signals

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
WAITING, RUNNING, DONE, DONE_BEFORE, STOPPED = "waiting", "running", "done", "done before", "stopped"
EXIT_INTERRUPTED = 130  # exit status of a training that saved its state after Ctrl-C
Job = ProcessJob | ClusterJob
Launcher = ProcessLauncher | ClusterLauncher


@dataclass(frozen=True)
class Scene:
    """A scene to train: its number, the name of its runs' folder, the command, and the file of its output."""

    scan: int
    name: str
    command: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Row:
    """A row of the table; the status is one of the words above, or ``failed (...)``."""

    scan: int
    status: str
    epochs: int = 0  # of the last checkpoint
    minutes: float | None = None  # of training, over all calls
    psnr: float | None = None  # of the last epoch, over the shaded rays of the training views, dB
    run: str = ""  # its folder


def look_up(exps: Path, scene: Scene, status: str) -> Row:
    """Returns the table row of a scene from the files of its run; 0 epochs without a checkpoint."""
    try:
        run = find_run(exps, scene.name)
    except MissingInputError:
        return Row(scene.scan, status)
    epochs = CheckpointFolder(run / CHECKPOINTS).epoch_of()
    try:
        last = read_metrics(run / "metrics.csv")[-1]
    except (InputError, IndexError):  # training itself refuses such a file
        last = {}
    minutes, psnr = (float(last[key]) if last.get(key) else None for key in ("minutes", "psnr"))
    return Row(scene.scan, status, epochs, minutes, psnr, str(run))


class SummaryTable:
    """``summary.csv`` and ``summary.md`` in a folder: one row per scene, written atomically."""

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
        """Returns the table in Markdown."""
        lines = ["| scan | status | epochs | minutes | PSNR in training | run |", "|---|---|---|---|---|---|"]
        for row in self.rows.values():
            epochs, (minutes, psnr) = f"{row.epochs} of {self.num_epochs}", _rounded(row).values()
            lines.append(f"| {row.scan} | {row.status} | {epochs} | {minutes} | {psnr} | {row.run} |")
        return "\n".join(lines) + "\n"


def _rounded(row: Row) -> dict[str, str]:
    numbers = {"minutes": (row.minutes, ".1f"), "psnr": (row.psnr, ".2f")}
    return {name: "" if value is None else format(value, form) for name, (value, form) in numbers.items()}


class SceneQueue:
    """Trains scenes in their order, `jobs` at a time; a failed one does not stop the others.

    The table is updated with every change.
    """

    def __init__(
        self, scenes: Sequence[Scene], exps: Path, launcher: Launcher, jobs: int, table: SummaryTable
    ) -> None:
        self.exps, self.launcher, self.jobs, self.table = exps, launcher, jobs, table
        table.put(*(look_up(exps, scene, WAITING) for scene in scenes))
        done = [scene for scene in scenes if table.rows[scene.scan].epochs >= table.num_epochs]
        for scene in done:
            self._update(scene, DONE_BEFORE)
        self.waiting = deque(scene for scene in scenes if scene not in done)
        self._running: dict[int, tuple[Scene, Job]] = {}  # by slot
        self._stops_requested = self._stops_forwarded = 0

    def run(self) -> bool:
        """Trains all scenes; returns whether one of `stop_signals` stopped it."""
        with self._signals():
            try:
                while self._running or (self.waiting and not self._stops_requested):
                    if self._stops_requested > self._stops_forwarded:
                        self._stops_forwarded = self._stops_requested
                        self._interrupt()
                    elif not self._stops_requested:
                        self._start()
                    self._collect()
                    time.sleep(POLL_SECONDS)
            except BaseException:  # such as a full disk: leave no running process behind
                self._interrupt()
                raise
        return self._stops_requested > 0

    def _interrupt(self) -> None:
        for _, job in self._running.values():
            job.interrupt()

    def _collect(self) -> None:
        for slot, (scene, job) in list(self._running.items()):
            status = job.poll()
            if status is not None:
                del self._running[slot]
                self._update(scene, _status_text(status))

    def _start(self) -> None:
        for slot in range(self.jobs):
            if slot not in self._running and self.waiting:
                scene = self.waiting.popleft()
                self._running[slot] = scene, self.launcher.start(scene.command, scene.log, slot)
                self._update(scene, RUNNING)

    def _update(self, scene: Scene, status: str) -> None:
        row = look_up(self.exps, scene, status)
        self.table.put(row)
        if status == RUNNING:
            log.info("scan %d: started; its output goes to %s", scene.scan, scene.log)
            return
        psnr = "" if row.psnr is None else f", PSNR in training {row.psnr:.2f} dB"
        message = f"scan {scene.scan}: {status}, {row.epochs} of {self.table.num_epochs} epochs{psnr}"
        if status.startswith("failed"):
            log.warning("%s: %s", message, _last_line(scene.log))
        else:
            log.info("%s", message)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Counts `stop_signals`, to pass them on."""

        def request_stop(number: int, frame: FrameType | None) -> None:
            self._stops_requested += 1
            log.warning("stopping: each scene saves its state; interrupt again to stop without saving")

        previous = {number: signal.signal(number, request_stop) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _status_text(status: int | str) -> str:
    if isinstance(status, str):
        return f"failed ({status})"
    if status < 0:
        return f"failed (signal {-status})"
    return {0: DONE, EXIT_INTERRUPTED: STOPPED}.get(status, f"failed (exit status {status})")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "no output")
