"""The training of ``idr-photos``: how many epochs fill its minutes, and the run that goes on."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from idr.cli.chain import StoppedError, require_success
from idr.cli.common import say
from idr.errors import MissingInputError

DATA_DIR, SCAN = "photos", 0
TRIAL_STEPS = 240
"""Steps of the trial, about; all schedules run through in them, as in the training that they stand for."""
TRIAL_SHARE = 1 / 3
"""Share of the minutes after which the trial ends in any case."""
USED_SHARE = 0.9
"""Share of the minutes that the epochs are to fill: the pace changes, and checkpoints take time, too."""


class PhotoTraining:
    """Trains one imported scene within a number of minutes, over as many calls as it takes.

    Args:
        arguments: Those of ``idr-photos``.
        scan: The scene's folder.
        out: The working folder; runs go to ``exps/``, the trial to ``pace/``.
    """

    def __init__(self, arguments: argparse.Namespace, scan: Path, out: Path) -> None:
        self.arguments, self.scan, self.out = arguments, scan, out

    def conf(self) -> dict[str, Any]:
        """Returns the conf as plain values, what the command line replaces included."""
        from idr.config import load_conf

        return dict(load_conf(self.arguments.conf, self.arguments.overrides).as_plain_ordered_dict())

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
        argv += ["--exps_folder", str(self.out / "exps"), "--gpu", self.arguments.gpu]
        argv += ["--device", self.arguments.device] if self.arguments.device else []
        for key in keys:
            argv += ["--set", key]
        return argv

    def pace(self) -> dict[str, Any]:
        """Chooses the number of epochs: the one that was asked for, or as many as fill the minutes.

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
                f"too-few-minutes: two epochs take longer than {TRIAL_SHARE:.0%} of --max_minutes "
                f"{self.arguments.max_minutes:g}; give more minutes, or --nepoch",
            )
        epoch = (minutes[-1] - minutes[0]) / (len(minutes) - 1)  # the first one compiles and warms up
        most = self.arguments.max_minutes
        nepoch = max(1, int(USED_SHARE * (most - minutes[-1]) / epoch))
        say(f"an epoch takes {60 * epoch:.2f} s: {nepoch} epochs for --max_minutes {most:g}")
        return {"nepoch": nepoch, "minutes": minutes[-1]}

    def _trial(self) -> list[float]:
        """Trains a little, and returns the minutes that were over after each epoch."""
        from idr.cli import train
        from idr.datasets.images import list_images
        from idr.training.progress import MetricsFile
        from idr.workspace import find_run

        folder = self.out / "pace"
        shutil.rmtree(folder, ignore_errors=True)
        images = len(list_images(self.scan / "image"))
        epochs = 1 + -(-TRIAL_STEPS // images)
        say(f"{epochs} epochs on trial, to learn the pace")
        argv = [*self.flags(), "--exps_folder", str(folder), "--nepoch", str(epochs)]
        argv += ["--max_minutes", f"{TRIAL_SHARE * self.arguments.max_minutes:.4f}"]
        status = train.main(argv)
        require_success("pace", status, "training-stopped: the message above says what to do")
        (runs,) = folder.iterdir()
        rows = MetricsFile(find_run(folder, runs.name) / "metrics.csv", epochs).rows
        shutil.rmtree(folder)
        return [float(row["minutes"]) for row in rows]

    def train(self, suffix: str, pace: dict[str, Any], anew: bool) -> dict[str, Any]:
        """Trains, or goes on with what was cut off.

        Args:
            suffix: Of the run's name; with the same one training goes on in the same run.
            pace: What `pace` returned.
            anew: Begin a new run in any case.

        Returns:
            ``timestamp``, ``position`` (epoch and step) and ``checkpoint`` of the run.

        Raises:
            StoppedError: It was interrupted, or failed.
        """
        from idr.workspace import CHECKPOINTS, CheckpointFolder, find_run, run_name

        name, exps = run_name(str(self.conf()["train"]["expname"]), suffix, SCAN), self.out / "exps"
        left = self.arguments.max_minutes - pace["minutes"]
        argv = [*self.flags(), "--expname", suffix, "--nepoch", str(pace["nepoch"])]
        if not anew and (exps / name).is_dir():
            argv.append("--is_continue")
            left -= _minutes_spent(exps, name, pace["nepoch"])
        if left > 0:
            self._run([*argv, "--max_minutes", f"{left:.4f}"])
        else:
            say(f"--max_minutes {self.arguments.max_minutes:g} were spent before")
        folder = find_run(exps, name)
        checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        position = checkpoints.position_of()
        if position[0] < pace["nepoch"]:
            say(
                f"the minutes ended in epoch {position[0]} of {pace['nepoch']}, before the schedules did: "
                "the surface is rougher than it could be; with more minutes the same command goes on"
            )
        latest = checkpoints.path / "ModelParameters" / "latest.pth"
        return {"timestamp": folder.name, "position": position, "checkpoint": str(latest)}

    def _run(self, argv: list[str]) -> None:
        from idr.cli import train

        status = train.main(argv)
        require_success("train", status, "training-stopped: the message above says what to do")


def _minutes_spent(exps: Path, name: str, nepoch: int) -> float:
    """Minutes of the newest run; 0 before its first checkpoint, where training says that it starts anew."""
    from idr.training.progress import MetricsFile
    from idr.workspace import find_run

    try:
        return MetricsFile(find_run(exps, name) / "metrics.csv", nepoch).minutes_so_far
    except MissingInputError:
        return 0.0
