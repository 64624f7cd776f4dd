"""The checkpoints of a run that may still be training; its files are only read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyhocon import ConfigTree

from idr.conf.build import scan_id_of
from idr.errors import InputError, MissingInputError
from idr.runs import Run
from idr.runs.folders import CHECKPOINTS, CheckpointFolder
from idr.runs.views import open_dataset
from idr.viewer.worker import Interruptible


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A complete checkpoint of a run.

    Attributes:
        epoch: Epochs done.
        step: Steps done in the next epoch.
        name: Its name.
        saved: When its network was saved, nanoseconds; tells apart two saves under one name.
    """

    epoch: int
    step: int
    name: str
    saved: int


class CheckpointReader:
    """Lists the checkpoints of a run and opens them; the scene is read once for all.

    `data_root` is the folder of all data sets, None for the conf's.

    Attributes:
        folder: The run's folder.
        dataset: The training views.
        held_out: The held-out views, None without them.

    Raises:
        MissingInputError: The scene is missing.
        InputError: The scene does not fit the conf.
    """

    def __init__(self, folder: Path, conf: ConfigTree, data_root: str | None, device: torch.device) -> None:
        self.folder = folder
        scan_id = scan_id_of(conf)
        self.dataset: Any = open_dataset(conf, scan_id, data_root)
        self.held_out: Any | None = None
        if conf.get("dataset.holdout", None):
            self.held_out = open_dataset(conf, scan_id, data_root, split="holdout")
        self._conf = conf
        self._device = device
        self._checkpoints = CheckpointFolder(folder / CHECKPOINTS)

    def checkpoints(self) -> list[Checkpoint]:
        """Returns the complete checkpoints in the order of saving, without those that vanish meanwhile."""
        found = []
        for name in self._checkpoints.names():
            try:
                epoch, step = self._checkpoints.position_of(name)
                saved = (self._checkpoints.path / "ModelParameters" / f"{name}.pth").stat().st_mtime_ns
            except (InputError, OSError):
                continue
            found.append(Checkpoint(epoch, step, name, saved))
        return found

    def open(self, checkpoint: Checkpoint, between: Callable[[], None]) -> Run:
        """Returns the run at a checkpoint; `between` is called before each evaluation of the network.

        Raises:
            MissingInputError: It no longer exists.
            InputError: It is damaged, or does not fit the conf or the scene.
        """
        try:
            run = Run(self._conf, self.folder, checkpoint.name, self._device, scene=self.dataset)
        except MissingInputError:
            raise
        except OSError as error:
            raise MissingInputError(
                f"checkpoint {checkpoint.name} could not be read ({error}): training may have just removed "
                "or replaced it; choose it again, or another one"
            ) from error
        run.model = Interruptible(run.model, between)
        run.held_out = self.held_out  # else each checkpoint would read the images again
        _ = run.scene, run.alignment  # refuses a scene that does not fit
        return run


def nearest(checkpoints: list[Checkpoint], epoch: float) -> Checkpoint | None:
    """Returns the checkpoint nearest to an epoch, the later one of two equally near; None of none."""
    return min(checkpoints, key=lambda c: (abs(c.epoch - epoch), -c.epoch, -c.step), default=None)
