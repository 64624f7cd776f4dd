"""The training of ``idr photos``: the speed trial, and one run that continues over several calls."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idr.cli.photos.journal import Journal, StoppedError, require_success
from idr.cli.shared.common import say
from idr.errors import InputError, MissingInputError

DATA_DIR, SCAN = "photos", 0
SPEED_TRIAL = "speed_trial"
TRIAL_STEPS = 240
"""Approximate number of steps of the trial; its schedules run from begin to end, as in the training."""
TRIAL_SHARE, TRIAL_MINUTES = 1 / 3, 2.0
"""Share of the time for training after which the trial stops, and minimum in minutes for compiling."""
USED_SHARE = 0.9
"""Share of the minutes for training that the epochs use; the rest is for checkpoints and changes of speed."""
FINISH_SHARE, FINISH_MINUTES = 0.1, 3.0
"""Share of ``--max_minutes`` that is left for mesh and report, and minimum in minutes; at most a quarter."""
TRAINING_SHARE = 1 / 3
"""Least share of ``--max_minutes`` for training, whatever the import took."""
HELD_OUT_EVERY, MOST_HELD_OUT = 12, 3
"""Images held out by default: one in 12, at least two, at most three."""


@dataclass(frozen=True)
class PhotoTraining:
    """Trains one imported scene within a number of minutes, over as many calls as needed."""

    arguments: argparse.Namespace  # of ``idr photos``
    scan: Path  # folder of the scene
    out: Path  # working folder; runs go to ``exps/``, the trial to a temporary folder
    suffix: str  # of the run's name; with the same suffix training continues the same run
    minutes: float  # for the trial and for training, over all calls
    held_out: Sequence[int] = ()  # images that training does not see
    anew: bool = False  # whether to begin a new run in any case
    spent: str = ""  # what became of the other minutes, for messages

    @property
    def exps(self) -> Path:
        """Folder of the runs."""
        return self.out / "exps"

    def flags(self) -> list[str]:
        """Returns the flags that choose conf, scene, runs and device for every command."""
        from idr.datasets.images import list_images, load_rgb

        images = list_images(self.scan / "image")
        height, width = load_rgb(images[0]).shape[:2]
        keys = [f"dataset.data_dir={DATA_DIR}", f"dataset.img_res=[{height},{width}]"]
        if self.held_out or self.arguments.hold_out is not None:
            keys.append(f"dataset.holdout={list(self.held_out)}")
        keys += self._fewer_images_per_step(len(images) - len(self.held_out))
        argv = ["--conf", self.arguments.conf, "--scan_id", str(SCAN), "--data_root", str(self.out / "data")]
        argv += ["--exps_folder", str(self.exps), "--gpu", self.arguments.gpu]
        argv += ["--device", self.arguments.device] if self.arguments.device else []
        for key in (*keys, *self.arguments.overrides):
            argv += ["--set", key]
        return argv

    def _fewer_images_per_step(self, num_images: int) -> list[str]:
        """Returns the override for a scene of fewer images than the conf's steps take; none for others."""
        from idr.conf.files import load_conf

        train = load_conf(self.arguments.conf, self.arguments.overrides)["train"]
        if train.get("images_per_step", 1) <= num_images:
            return []
        divisors = (count for count in range(num_images, 0, -1) if train["num_pixels"] % count == 0)
        return [f"train.images_per_step={next(divisors)}"]

    @property
    def name(self) -> str:
        """Name of the run."""
        from idr.conf.files import load_conf
        from idr.runs.folders import run_name

        conf = load_conf(self.arguments.conf, self.arguments.overrides)
        return run_name(str(conf["train.expname"]), self.suffix, SCAN)

    def choose_epochs(self) -> dict[str, Any]:
        """Returns ``nepoch``, from ``--nepoch`` or a speed trial, and the ``minutes`` of the trial.

        Raises:
            StoppedError: The trial failed, or its time limit is too short for two epochs.
        """
        say(self.spent)
        if self.held_out:
            numbers = ", ".join(map(str, self.held_out))
            say(f"held out of training for the report's scores: images {numbers}; none with --hold_out 0")
        if self.arguments.nepoch is not None:
            return {"nepoch": self.arguments.nepoch, "minutes": 0.0}
        began = time.monotonic()
        minutes = self._trial()
        if len(minutes) < 2:
            longer = f"two epochs take longer than {self._trial_ends():.3g} minutes ({self.spent})"
            raise StoppedError(SPEED_TRIAL, f"too-few-minutes: {longer}; give more minutes, or --nepoch")
        epoch = (minutes[-1] - minutes[0]) / (len(minutes) - 1)  # the first epoch compiles and warms up
        done, before = self._so_far()
        trial = max(minutes[-1], (time.monotonic() - began) / 60)  # with the start and the end of the process
        nepoch = max(1, done + max(0, int(USED_SHARE * (self.minutes - before - trial) / epoch)))
        say(f"an epoch takes {60 * epoch:.2f} s: {nepoch} epochs")
        return {"nepoch": nepoch, "minutes": trial}

    def _trial_ends(self) -> float:
        """Time limit of the trial, minutes."""
        return float(min(self.minutes, max(TRIAL_SHARE * self.minutes, TRIAL_MINUTES)))

    def _trial(self) -> list[float]:
        """Trains a few epochs and returns the minutes elapsed after each."""
        from idr.datasets.images import list_images
        from idr.runs.folders import find_run
        from idr.training.progress import MetricsFile

        for leftover in self.out.glob(f".{SPEED_TRIAL}.*.tmp"):  # of killed trials
            shutil.rmtree(leftover, ignore_errors=True)
        images = len(list_images(self.scan / "image")) - len(self.held_out)
        epochs = 1 + -(-TRIAL_STEPS // images)
        say(f"speed trial: {epochs} epochs")
        with tempfile.TemporaryDirectory(".tmp", f".{SPEED_TRIAL}.", self.out) as folder:
            argv = [*self.flags(), "--exps_folder", folder, "--nepoch", str(epochs)]
            argv += ["--max_minutes", f"{self._trial_ends():.4f}"]
            _train(SPEED_TRIAL, argv)
            (runs,) = Path(folder).iterdir()
            rows = MetricsFile(find_run(Path(folder), runs.name) / "metrics.csv", epochs).rows
        return [float(row["minutes"]) for row in rows]

    def train(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Trains, or continues an interrupted run, as the result of `choose_epochs` says.

        Returns:
            ``timestamp``, ``position`` (epoch and step) and ``checkpoint`` of the run.

        Raises:
            StoppedError: Training was interrupted or failed.
        """
        from idr.runs.folders import CHECKPOINTS, CheckpointFolder, find_run

        argv = [*self.flags(), "--expname", self.suffix, "--nepoch", str(trial["nepoch"])]
        if not self.anew and (self.exps / self.name).is_dir():
            argv.append("--is_continue")
        left = self.minutes - trial["minutes"] - self._so_far()[1]
        if left > 0:
            _train("train", [*argv, "--max_minutes", f"{left:.4f}"])
        else:
            say(f"the minutes for training were used up by earlier calls ({self.spent})")
        folder = find_run(self.exps, self.name)
        checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        position = checkpoints.position_of()
        if position[0] < trial["nepoch"]:
            say(
                f"the time limit ended training in epoch {position[0]} of {trial['nepoch']}, before its "
                "schedules were complete: the surface is rougher than it could be; the same command "
                "continues with a larger --max_minutes"
            )
        latest = checkpoints.path / "ModelParameters" / "latest.pth"
        return {"timestamp": folder.name, "position": position, "checkpoint": str(latest)}

    def _so_far(self) -> tuple[int, float]:
        """Returns epochs and minutes of the run to continue, zeros without a checkpoint."""
        from idr.runs.folders import CHECKPOINTS, CheckpointFolder, find_run
        from idr.training.progress import MetricsFile

        if self.anew:
            return 0, 0.0
        try:
            folder = find_run(self.exps, self.name)
        except MissingInputError:
            return 0, 0.0
        epoch = CheckpointFolder(folder / CHECKPOINTS).position_of()[0]
        return epoch, MetricsFile(folder / "metrics.csv", epoch).minutes_so_far


def held_out_images(scan: Path, number: int | None, conf: Mapping[str, Any]) -> list[int]:
    """Returns the indices of evenly spaced images to hold out; none if the conf holds some out itself.

    A `number` of None means one in `HELD_OUT_EVERY`, 2 to `MOST_HELD_OUT`, of at least that many images.

    Raises:
        InputError: Fewer than two images would be left.
    """
    from idr.datasets.images import list_images

    count = len(list_images(scan / "image"))
    if number is None:
        if conf["dataset"].get("holdout") or count < HELD_OUT_EVERY:
            return []
        number = min(MOST_HELD_OUT, max(2, count // HELD_OUT_EVERY))
    if number > max(0, count - 2):
        raise InputError(f"--hold_out {number}: the scene has {count} images; expected at most {count - 2}")
    return [int((k + 0.5) * count / number) for k in range(number)]


def training_minutes(journal: Journal, most: float) -> tuple[float, str]:
    """Returns the minutes of ``--max_minutes`` that are left for training, and what took the others."""
    imported, checked = journal.minutes("import"), journal.minutes("doctor")
    finish = max(FINISH_SHARE * most, min(FINISH_MINUTES, most / 4))
    if journal.minutes("mesh") and journal.minutes("report"):  # of an earlier call
        finish = journal.minutes("mesh", "report")
    left, least = most - imported - checked - finish, TRAINING_SHARE * most
    spent = (
        f"of --max_minutes {most:g}, the import took {imported:.1f}, the check {checked:.1f}, and mesh and "
        f"report need about {finish:.1f}"
    )
    if left >= least:
        return left, f"{spent}: {left:.3g} minutes for training"
    return least, f"{spent}; training gets {least:.3g} all the same: everything takes longer than asked"

def _train(step: str, argv: list[str]) -> None:
    from idr.cli import train

    require_success(step, train.main(argv), "training-stopped: see the message above")
