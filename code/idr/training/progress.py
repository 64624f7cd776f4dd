"""Reports of training: a progress line, ``metrics.csv``, TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idr.checkpoints.metrics import read_metrics
from idr.errors import InputError
from idr.files import output_errors, write_text_atomic

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between progress lines
RATE_SECONDS = 60.0  # of training that the estimate of the time left remembers
WARM_UP_STEPS = 5  # of a process, which compile
RENAMED = {"camera_centre": "camera_center", "open_colour_levels": "open_color_levels"}
"""Columns of ``metrics.csv`` in earlier versions, and their present names."""
LOSS_NAMES = ("loss", "rgb_loss", "eikonal_loss", "mask_loss")


def minutes_and_seconds(seconds: float) -> str:
    """Formats a duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def squared_error(outputs: Mapping[str, Any], rgb: Tensor) -> Tensor:
    """Returns the sum of the squared color error over rays that hit inside the mask, and its number of terms.

    The result, (2,), is for colors in [0, 1]; `rgb`, the photographs' colors, are in [-1, 1], (B, P, 3). The
    host reads nothing.
    """
    shaded = (outputs["network_object_mask"] & outputs["object_mask"]).unsqueeze(1)
    error = (outputs["rgb_values"].detach() - rgb.reshape(-1, 3)) / 2
    error = torch.where(shaded, error, torch.zeros_like(error))
    return torch.stack((error.square().sum(), 3.0 * shaded.sum()))


@dataclass
class Averages:
    """Sums over some steps, kept on the device until they are read.

    Attributes:
        losses: Sum of each loss.
        error: (2,) sum of `squared_error`, or None before the first step.
        steps: Number of steps.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    error: Tensor | None = None
    steps: int = 0

    def add(self, losses: Mapping[str, Tensor], error: Tensor) -> None:
        """Adds one step."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value.detach()
        self.error = error if self.error is None else self.error + error
        self.steps += 1

    def to_plain(self) -> dict[str, Any]:
        """Returns the sums as tensors and plain values for a checkpoint."""
        return {"steps": self.steps, "losses": dict(self.losses), "error": self.error}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Averages:
        """Returns the averages of which `to_plain` returned the content."""
        return cls(dict(content["losses"]), content["error"], int(content["steps"]))

    def read(self) -> dict[str, float]:
        """Returns the mean losses and the PSNR of shaded rays; the host waits for the device."""
        if not self.steps or self.error is None:
            return {}
        values = {name: float(total) / self.steps for name, total in self.losses.items()}
        total, count = self.error.tolist()
        values["psnr"] = -10 * math.log10(total / count) if total > 0 and count > 0 else math.nan
        return values


@dataclass
class StepRate:
    """Mean time and rays of a step over about the last `RATE_SECONDS`, without the first `WARM_UP_STEPS`.

    The first steps of a process compile and fill caches.
    """

    warm_up: int = WARM_UP_STEPS
    seconds: float = 0.0
    steps: float = 0.0
    rays: float = 0.0

    def add(self, seconds: float, rays: int) -> None:
        """Adds a step."""
        if self.warm_up:
            self.warm_up -= 1
            return
        kept = math.exp(-seconds / RATE_SECONDS)
        self.seconds = kept * self.seconds + max(seconds, 1e-9)
        self.steps, self.rays = kept * self.steps + 1, kept * self.rays + rays

    def words(self, num_steps: int, limit: float) -> str:
        """Returns rays a second, and the time left for so many steps, at most `limit` seconds."""
        if not self.steps:
            return "first steps, time left not yet known"
        left = max(min(num_steps * self.seconds / self.steps, limit), 0.0)
        return f"{self.rays / self.seconds:,.0f} rays/s  {minutes_and_seconds(left)} left"


class ProgressLine:
    """Logs the progress of training, at most every `LINE_SECONDS`.

    `seconds_left` returns the time until training must end.
    """

    def __init__(
        self, num_epochs: int, steps_per_epoch: int, seconds_left: Callable[[], float] = lambda: math.inf
    ) -> None:
        self.num_epochs, self.steps_per_epoch, self.seconds_left = num_epochs, steps_per_epoch, seconds_left
        self.averages = Averages()
        self._last = self._before = time.monotonic()  # the last line, the last step
        self._rate = StepRate()

    def step(self, epoch: int, step: int, losses: Mapping[str, Tensor], error: Tensor, rays: int) -> None:
        """Adds the losses, `squared_error` and number of rays of a step, and logs a line if one is due.

        `epoch` and `step` are the epochs done, and the steps done in the present epoch.
        """
        self.averages.add(losses, error)
        now = time.monotonic()
        self._rate.add(now - self._before, rays)
        self._before = now
        done = epoch * self.steps_per_epoch + step
        total = self.num_epochs * self.steps_per_epoch
        if now - self._last < LINE_SECONDS and done < total:
            return
        means = self.averages.read()
        log.info(
            "epoch %d/%d  loss %.4f (rgb %.4f, eikonal %.4f, mask %.5f)  psnr of hits %.2f dB  %s",
            done // self.steps_per_epoch, self.num_epochs,
            *(means.get(name, math.nan) for name in LOSS_NAMES), means["psnr"],
            self._rate.words(total - done, self.seconds_left()),
        )  # fmt: skip
        self.averages, self._last = Averages(), now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent in the context, which is not training."""
        started = time.monotonic()
        try:
            yield
        finally:
            paused = time.monotonic() - started
            self._last, self._before = self._last + paused, self._before + paused


class MetricsFile:
    """``metrics.csv`` of a run, with one row for each epoch.

    Of an existing file, rows from `first_epoch` on, which will be trained again, are dropped, and columns of
    earlier versions get their present names.

    Raises:
        InputError: The existing file is not as training wrote it.
    """

    def __init__(self, path: Path, first_epoch: int) -> None:
        self.path = path
        rows = [row for row in read_metrics(path) if int(row["epoch"]) < first_epoch]
        self.rows = [{RENAMED.get(name, name): value for name, value in row.items()} for row in rows]

    @property
    def minutes_so_far(self) -> float:
        """Training time up to the last row."""
        return float(self.rows[-1].get("minutes") or 0.0) if self.rows else 0.0

    def add(self, values: Mapping[str, float | int]) -> None:
        """Adds one epoch's row and writes the file atomically; the first column is ``epoch``."""
        self.rows.append(
            {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        )
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text_atomic(self.path, text.getvalue())


class TensorBoardLog:
    """Writes scalars and images for TensorBoard; `InputError` if that is not installed."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--tensorboard needs the tensorboard package; pip install 'idr-surface[tensorboard]'"
            ) from error
        self._make_writer = SummaryWriter

    def open(self, folder: Path, first_epoch: int) -> None:
        """Opens an event file in a folder; older events of `first_epoch` and later epochs are hidden."""
        self.folder = folder
        with output_errors(folder):
            self.writer = self._make_writer(str(folder), purge_step=first_epoch)

    def scalars(self, values: Mapping[str, float | int], epoch: int) -> None:
        """Writes one epoch's numbers."""
        with output_errors(self.folder):
            for name, value in values.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    def images(self, folder: Path, epoch: int) -> None:
        """Writes the epoch's images in the folder of plots."""
        import imageio.v3 as iio

        with output_errors(self.folder):
            for path in sorted(folder.glob(f"*_{epoch}.png")):
                image = iio.imread(path)
                axes = "HW" if image.ndim == 2 else "HWC"
                self.writer.add_image(path.stem.rsplit("_", 1)[0], image, epoch, dataformats=axes)
            self.writer.flush()
