"""The training of ``idr photos``: the speed trial, and one run that continues over several calls."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idr.cli.photos.journal import StoppedError, require_success
from idr.cli.shared.common import say
from idr.errors import MissingInputError

DATA_DIR, SCAN = "photos", 0
SPEED_TRIAL = "speed_trial"
TRIAL_STEPS = 240
"""Approximate number of steps of the trial; its schedules run from begin to end, as in the training."""
TRIAL_SHARE, TRIAL_MINUTES = 1 / 3, 2.0
"""Share of ``--max_minutes`` after which the trial stops, and minimum in minutes for compiling kernels."""
USED_SHARE = 0.9
"""Share of ``--max_minutes`` that the epochs use; the rest is for checkpoints and changes of speed."""


@dataclass(frozen=True)
class PhotoTraining:
    """Trains one imported scene within ``--max_minutes``, over as many calls as needed."""

    arguments: argparse.Namespace  # of ``idr photos``
    scan: Path  # folder of the scene
    out: Path  # working folder; runs go to ``exps/``, the trial to a temporary folder
    suffix: str  # of the run's name; with the same suffix training continues the same run
    anew: bool = False  # whether to begin a new run in any case

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
        keys += self._fewer_images_per_step(len(images))
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
        if self.arguments.nepoch is not None:
            return {"nepoch": self.arguments.nepoch, "minutes": 0.0}
        minutes, most = self._trial(), self.arguments.max_minutes
        if len(minutes) < 2:
            longer = f"two epochs take longer than {self._trial_ends():g} of --max_minutes {most:g}"
            raise StoppedError(SPEED_TRIAL, f"too-few-minutes: {longer}; give more minutes, or --nepoch")
        epoch = (minutes[-1] - minutes[0]) / (len(minutes) - 1)  # the first epoch compiles and warms up
        done, spent = self._so_far()
        nepoch = max(1, done + max(0, int(USED_SHARE * (most - spent - minutes[-1]) / epoch)))
        say(f"an epoch takes {60 * epoch:.2f} s: {nepoch} epochs for --max_minutes {most:g}")
        return {"nepoch": nepoch, "minutes": minutes[-1]}

    def _trial_ends(self) -> float:
        """Time limit of the trial, minutes."""
        most = self.arguments.max_minutes
        return float(min(most, max(TRIAL_SHARE * most, TRIAL_MINUTES)))

    def _trial(self) -> list[float]:
        """Trains a few epochs and returns the minutes elapsed after each."""
        from idr.datasets.images import list_images
        from idr.runs.folders import find_run
        from idr.training.progress import MetricsFile

        for leftover in self.out.glob(f".{SPEED_TRIAL}.*.tmp"):  # of killed trials
            shutil.rmtree(leftover, ignore_errors=True)
        images = len(list_images(self.scan / "image"))
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
        left = self.arguments.max_minutes - trial["minutes"] - self._so_far()[1]
        if left > 0:
            _train("train", [*argv, "--max_minutes", f"{left:.4f}"])
        else:
            say(f"--max_minutes {self.arguments.max_minutes:g} were used up by earlier calls")
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


def _train(step: str, argv: list[str]) -> None:
    from idr.cli import train

    require_success(step, train.main(argv), "training-stopped: see the message above")
