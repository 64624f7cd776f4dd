"""The training of ``idr-photos``: how many epochs fill its minutes, and the run that goes on."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from idr.cli.photos.steps import StoppedError, require_success
from idr.cli.shared.common import say
from idr.errors import MissingInputError

DATA_DIR, SCAN = "photos", 0
TRIAL_STEPS = 240
"""Steps of the trial, about; all schedules run through in them, as in the training that they stand for."""
TRIAL_SHARE, TRIAL_MINUTES = 1 / 3, 2.0
"""The trial ends after this share of the minutes, but not before these, as loops may be compiled first."""
USED_SHARE = 0.9
"""Share of the minutes that the epochs are to fill: the pace changes, and checkpoints take time, too."""


class PhotoTraining:
    """Trains one imported scene within a number of minutes, over as many calls as it takes.

    Args:
        arguments: Those of ``idr-photos``.
        scan: The scene's folder.
        out: The working folder; runs go to ``exps/``, the trial to ``pace/``.
        suffix: Of the run's name; with the same one training goes on in the same run.
        anew: Begin a new run in any case.
    """

    def __init__(
        self, arguments: argparse.Namespace, scan: Path, out: Path, suffix: str, anew: bool = False
    ) -> None:
        self.arguments, self.scan, self.out = arguments, scan, out
        self.suffix, self.anew = suffix, anew

    def flags(self) -> list[str]:
        """Returns the options by which every command finds conf, scene and runs."""
        from idr.datasets.images import list_images, load_rgb

        height, width = load_rgb(list_images(self.scan / "image")[0]).shape[:2]
        keys = [
            f"dataset.data_dir={DATA_DIR}",
            f"dataset.img_res=[{height},{width}]",
            *self.arguments.overrides,
        ]
        argv = ["--conf", self.arguments.conf, "--scan_id", str(SCAN), "--data_root", str(self.out / "data")]
        argv += ["--exps_folder", str(self.exps), "--gpu", self.arguments.gpu]
        argv += ["--device", self.arguments.device] if self.arguments.device else []
        for key in keys:
            argv += ["--set", key]
        return argv

    @property
    def exps(self) -> Path:
        """The folder of all runs."""
        return self.out / "exps"

    @property
    def name(self) -> str:
        """The run's name."""
        from idr.conf.files import load_conf
        from idr.runs.folders import run_name

        conf = load_conf(self.arguments.conf, self.arguments.overrides)
        return run_name(str(conf["train.expname"]), self.suffix, SCAN)

    def pace(self) -> dict[str, Any]:
        """Chooses the number of epochs: the one that was asked for, or as many more as fill the minutes left.

        Returns:
            ``nepoch``, and the ``minutes`` that it took to find out.

        Raises:
            StoppedError: The trial failed, or the minutes are too few for two epochs of it.
        """
        if self.arguments.nepoch is not None:
            return {"nepoch": self.arguments.nepoch, "minutes": 0.0}
        minutes = self._trial()
        if len(minutes) < 2:
            raise StoppedError(
                "pace",
                f"too-few-minutes: two epochs take longer than {self._trial_ends():g} of --max_minutes "
                f"{self.arguments.max_minutes:g}; give more minutes, or --nepoch",
            )
        epoch = (minutes[-1] - minutes[0]) / (len(minutes) - 1)  # the first one compiles and warms up
        done, spent = self._so_far()
        most = self.arguments.max_minutes
        nepoch = max(1, done + max(0, int(USED_SHARE * (most - spent - minutes[-1]) / epoch)))
        say(f"an epoch takes {60 * epoch:.2f} s: {nepoch} epochs for --max_minutes {most:g}")
        return {"nepoch": nepoch, "minutes": minutes[-1]}

    def _trial_ends(self) -> float:
        """Minutes after which the trial ends, wherever it is."""
        most = self.arguments.max_minutes
        return float(min(most, max(TRIAL_SHARE * most, TRIAL_MINUTES)))

    def _trial(self) -> list[float]:
        """Trains a little, and returns the minutes that were over after each epoch."""
        from idr.cli import train
        from idr.datasets.images import list_images
        from idr.runs.folders import find_run
        from idr.training.progress import MetricsFile

        folder = self.out / "pace"
        shutil.rmtree(folder, ignore_errors=True)
        images = len(list_images(self.scan / "image"))
        epochs = 1 + -(-TRIAL_STEPS // images)
        say(f"{epochs} epochs on trial, to learn the pace")
        argv = [*self.flags(), "--exps_folder", str(folder), "--nepoch", str(epochs)]
        argv += ["--max_minutes", f"{self._trial_ends():.4f}"]
        status = train.main(argv)
        require_success("pace", status, "training-stopped: the message above says what to do")
        (runs,) = folder.iterdir()
        rows = MetricsFile(find_run(folder, runs.name) / "metrics.csv", epochs).rows
        shutil.rmtree(folder)
        return [float(row["minutes"]) for row in rows]

    def train(self, pace: dict[str, Any]) -> dict[str, Any]:
        """Trains, or goes on with what was cut off.

        Args:
            pace: What `pace` returned.

        Returns:
            ``timestamp``, ``position`` (epoch and step) and ``checkpoint`` of the run.

        Raises:
            StoppedError: It was interrupted, or failed.
        """
        from idr.runs.folders import CHECKPOINTS, CheckpointFolder, find_run

        argv = [*self.flags(), "--expname", self.suffix, "--nepoch", str(pace["nepoch"])]
        if not self.anew and (self.exps / self.name).is_dir():
            argv.append("--is_continue")
        left = self.arguments.max_minutes - pace["minutes"] - self._so_far()[1]
        if left > 0:
            self._run([*argv, "--max_minutes", f"{left:.4f}"])
        else:
            say(f"--max_minutes {self.arguments.max_minutes:g} were spent before")
        folder = find_run(self.exps, self.name)
        checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        position = checkpoints.position_of()
        if position[0] < pace["nepoch"]:
            say(
                f"the minutes ended in epoch {position[0]} of {pace['nepoch']}, before the schedules did: "
                "the surface is rougher than it could be; with more minutes the same command goes on"
            )
        latest = checkpoints.path / "ModelParameters" / "latest.pth"
        return {"timestamp": folder.name, "position": position, "checkpoint": str(latest)}

    def _so_far(self) -> tuple[int, float]:
        """Epochs and minutes of the run that would go on; none where there is no checkpoint yet."""
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

    def _run(self, argv: list[str]) -> None:
        from idr.cli import train

        status = train.main(argv)
        require_success("train", status, "training-stopped: the message above says what to do")
