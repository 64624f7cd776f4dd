"""A run that may still be trained, looked at from outside: its files are read and never written.

B training images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pyhocon import ConfigTree

from idr.conf.build import scan_id_of
from idr.errors import InputError, MissingInputError
from idr.evaluation.reconstruction import join_views
from idr.runs.api import LoadedRun
from idr.runs.folders import CHECKPOINTS, CheckpointFolder
from idr.runs.opened import load_model, open_dataset
from idr.viewer.worker import Interruptible

KEPT_NETWORKS = 3
"""Networks kept for when one goes back to a checkpoint."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A complete checkpoint of a run.

    Attributes:
        epoch: Passes done.
        step: Steps done in the next.
        name: Its name.
        saved: When its network was saved, nanoseconds; another save under the same name has another.
    """

    epoch: int
    step: int
    name: str
    saved: int


class WatchedRun:
    """A run and the scene it is trained on; the scene is read once.

    Args:
        folder: The run.
        conf: The conf it is trained with.
        data_root: Folder of the data sets, or None for the conf's.
        device: Where networks are put.

    Raises:
        MissingInputError: The scene is not there.
        InputError: Something in it does not fit.
    """

    def __init__(self, folder: Path, conf: ConfigTree, data_root: str | None, device: torch.device) -> None:
        self.folder = folder
        self.conf = conf
        self.device = device
        self.dataset: Any = open_dataset(conf, scan_id_of(conf), data_root)
        self._checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        self._opened: OrderedDict[Checkpoint, LoadedRun] = OrderedDict()

    def checkpoints(self) -> list[Checkpoint]:
        """Lists the complete checkpoints in the order they were saved; one that vanishes is left out."""
        found = []
        for name in self._checkpoints.names():
            try:
                epoch, step = self._checkpoints.position_of(name)
                saved = (self._checkpoints.path / "ModelParameters" / f"{name}.pth").stat().st_mtime_ns
            except (InputError, OSError):
                continue
            found.append(Checkpoint(epoch, step, name, saved))
        return found

    def open(self, checkpoint: Checkpoint, between: Callable[[], None]) -> LoadedRun:
        """Loads the network of a checkpoint, or takes one of the last few loaded.

        Args:
            checkpoint: Which.
            between: Called before each evaluation of the network.

        Raises:
            MissingInputError: It is there no more.
            InputError: It is damaged, or does not fit the conf or the scene.
        """
        if checkpoint in self._opened:
            self._opened.move_to_end(checkpoint)
            return self._opened[checkpoint]
        try:
            loaded = load_model(self.conf, self.folder, checkpoint.name, self.device)
        except (InputError, MissingInputError):
            raise
        except OSError as error:
            raise MissingInputError(
                f"checkpoint {checkpoint.name} could not be read ({error}): training may have removed or "
                "replaced it this moment; choose it again, or another one"
            ) from error
        loaded = replace(loaded, model=Interruptible(loaded.model, between))
        run = LoadedRun(self.folder, self.conf, loaded)
        run.scene = join_views(loaded, self.dataset, None)
        self._opened[checkpoint] = run
        while len(self._opened) > KEPT_NETWORKS:
            self._opened.popitem(last=False)
        return run


def nearest(checkpoints: list[Checkpoint], epoch: float) -> Checkpoint | None:
    """Returns the checkpoint nearest to an epoch, of two equally near the later; None of none."""
    return min(checkpoints, key=lambda c: (abs(c.epoch - epoch), -c.epoch, -c.step), default=None)
