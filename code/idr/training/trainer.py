"""The training loop.

B images of a batch, P pixels an image, R = B P rays.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from idr.checkpoints.folder import CheckpointFolder, checkpoint_name
from idr.checkpoints.format import write_content
from idr.errors import OutputError, TrainingStoppedError
from idr.files import write_atomic
from idr.geometry.frames import frame_of
from idr.training.cameras.intrinsics import LearnableIntrinsics
from idr.training.cameras.poses import LearnablePoses
from idr.training.config import TrainConfig
from idr.training.diagnostics import FILLED, INSIDE_AT_SPHERE, share_inside_at_sphere, symptoms
from idr.training.optimizers import make_camera_optimizer, make_optimizer, shorten_gradients
from idr.training.processes.distributed import OneProcess
from idr.training.progress import Averages, MetricsFile, ProgressLine, TensorBoardLog, squared_error
from idr.training.rays.batches import Batch, Feed
from idr.training.schedule.by_epoch import alpha_at, camera_learning_rate_at, rate_milestones
from idr.training.schedule.checks import check_recipe
from idr.training.state import TrainingState
from idr.training.stopping import StopRule

log = logging.getLogger(__name__)

Plot = Callable[["Trainer", int], None]
Monitor = Callable[["Trainer"], Mapping[str, float]]


@dataclass(frozen=True)
class Outputs:
    """Where a run writes, and what it asks others for.

    Attributes:
        run: The run's folder.
        plot: Called every `plot_freq` epochs with the trainer and the epoch; None for no plots.
        monitor: Called after every epoch for further numbers of ``metrics.csv``; None for none.
        tensorboard: TensorBoard's log, or None.
    """

    run: Path
    plot: Plot | None = None
    monitor: Monitor | None = None
    tensorboard: TensorBoardLog | None = None


class Trainer:
    """Trains geometry, appearance and, if asked, cameras.

    Args:
        dataset: The images; the seam of `SceneDataset`.
        model: The seam of `IDRNetwork`, on its device.
        loss: The seam of `IDRLoss`; its `alpha` is set from the schedule.
        config: The block ``train``.
        num_epochs: Passes over the images, absolute.
        batch_size: Images a step.
        seed: Root of all random numbers.
        outputs: Where to write.
        poses: Learnable cameras, on the model's device, or None for the data set's.
        intrinsics: Learnable intrinsics, likewise.
        ranks: The processes that share the rays; only the first of them writes.
        stop: What ends training before `num_epochs`; None for signals alone.

    Attributes:
        interrupted: Whether it was a signal that ended training.
    """

    def __init__(
        self,
        dataset: Any,
        model: nn.Module,
        loss: Any,
        config: TrainConfig,
        *,
        num_epochs: int,
        batch_size: int,
        seed: int,
        outputs: Outputs,
        poses: LearnablePoses | None = None,
        intrinsics: LearnableIntrinsics | None = None,
        ranks: OneProcess | None = None,
        stop: StopRule | None = None,
    ) -> None:
        self.dataset, self.loss, self.config, self.outputs = dataset, loss, config, outputs
        self.num_epochs = num_epochs
        self.ranks = ranks or OneProcess()
        self.stop = stop or StopRule()
        self.interrupted = False
        self.render = self.ranks.wrap(model)
        check_recipe(config, dataset, model, loss, batch_size)
        self.feed = Feed(dataset, batch_size, config, num_epochs)
        self.device = next(model.parameters()).device
        self.first_alpha = loss.alpha
        optimizer = make_optimizer(model, config)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(
            optimizer, list(rate_milestones(config)), gamma=config.sched_factor
        )
        optimizer_cam = None if poses is None else make_camera_optimizer(poses, config)
        optimizer_intrinsics = None if intrinsics is None else make_camera_optimizer(intrinsics, config)
        self.state = TrainingState(
            model, optimizer, scheduler, poses, optimizer_cam, seed, batch_size,
            scale_mat=frame_of(dataset), intrinsics=intrinsics, optimizer_intrinsics=optimizer_intrinsics,
            error_maps=self.feed.error_maps, opened_networks=tuple(config.schedule.openings),
        )  # fmt: skip
        self.feed.schedule.open_levels(0, 0, model)
        self.checkpoints = CheckpointFolder(outputs.run / "checkpoints")
        self._seconds = 0.0  # spent in training steps, before and after interruptions
        self._stop_signal: int | None = None
        self._saved_at: tuple[int, int] | None = None

    def resume(self, source: CheckpointFolder, name: str, keep_seed: bool) -> None:
        """Takes over a checkpoint.

        Args:
            source: The folder it lies in.
            name: Its name.
            keep_seed: Keep the own seed rather than the checkpoint's.

        Raises:
            InputError: It does not fit.
        """
        parts = source.load_all(name, map_location=self.device)
        where = f"checkpoint {name} in {source.path}"
        position = int(parts["ModelParameters"]["epoch"]), int(parts.get("TrainerState", {}).get("step", 0))
        self.feed.schedule.open_levels(*position, self.state.model)  # unless the checkpoint tells
        self.state.load_parts(parts, where, keep_seed)
        self.state.follow_schedule(self.config, where)
        if source.path == self.checkpoints.path and "TrainerState" in parts:
            self._saved_at = (self.state.epoch, self.state.step)

    def move_to(self, run: Path) -> None:
        """Goes on in another run's folder; the first save there is the present state."""
        self.outputs = replace(self.outputs, run=run)
        self.checkpoints = CheckpointFolder(run / "checkpoints")
        self._saved_at = None

    def train(self) -> bool:
        """Trains up to `num_epochs`, saving on the way and at the end.

        Returns:
            True when all epochs are done, False when a signal or the stop rule ended training early (the
            state is saved).

        Raises:
            TrainingStoppedError: A loss or a gradient is not finite.
            OutputError: A checkpoint cannot be written.
        """
        state = self.state
        metrics = MetricsFile(self.outputs.run / "metrics.csv", state.epoch)
        self._seconds = metrics.minutes_so_far * 60
        line = ProgressLine(self.num_epochs, self.feed.steps_per_epoch, self.stop.seconds_left)
        if self.outputs.tensorboard is not None:
            self.outputs.tensorboard.open(self.outputs.run / "tensorboard", state.epoch)
        self._stop_signal = None
        with self._signals(), self.ranks.losing_none():
            while state.epoch < self.num_epochs:
                epoch = state.epoch
                self.loss.alpha = alpha_at(epoch, self.first_alpha, self.config)
                if state.step == 0:
                    with line.paused():
                        self._begin_epoch(epoch)
                self._train_epoch(epoch, line)
                if state.step >= self.feed.steps_per_epoch:
                    self._record(epoch, metrics)
                    state.scheduler.step()
                    state.epoch, state.step, state.averages = epoch + 1, 0, Averages()
                if self._asked_to_stop():
                    break
            self.save()
            self.interrupted = self.ranks.any(self._stop_signal is not None)
        return state.epoch >= self.num_epochs

    def _begin_epoch(self, epoch: int) -> None:
        """Saves and plots where the epoch's number asks for it."""
        if epoch % self.config.checkpoint_freq == 0:
            self.save()
        if self.outputs.plot is not None and epoch % self.config.plot_freq == 0:
            self.outputs.plot(self, epoch)
            if self.outputs.tensorboard is not None:
                self.outputs.tensorboard.images(self.outputs.run / "plots", epoch)

    def _train_epoch(self, epoch: int, line: ProgressLine) -> None:
        """Does the steps of an epoch that are left, up to a stop."""
        state = self.state
        state.model.train()
        started = time.monotonic()
        for batch in self.feed.batches(state.seed, epoch, state.step):
            self.feed.schedule.apply(epoch, state.step, state, self.loss, self.first_alpha)
            losses, error, rays = self._train_step(batch.to(self.device))
            state.step += 1
            state.averages.add(losses, error)
            line.step(epoch, state.step, losses, error, rays)
            if self._asked_to_stop():
                break
        self._seconds += time.monotonic() - started

    def _train_step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, int]:
        """Does one step; returns its losses, its `squared_error` and its number of rays."""
        state = self.state
        model_input = dict(batch.model_input)
        if state.poses is not None:
            model_input["pose"] = state.poses(batch.indices)  # (B, 7) or (B, 4, 4)
        if state.intrinsics is not None:
            model_input["intrinsics"] = state.intrinsics(batch.indices)  # (B, 4, 4)
        outputs = self.render(model_input)
        losses = self.loss(outputs, batch.ground_truth)

        state.optimizer.zero_grad()
        for optimizer in state.camera_optimizers:
            optimizer.zero_grad()
        losses["loss"].backward()
        for table, rows in state.camera_rows(batch.indices):
            self.ranks.average_row_gradient(table, rows)
        self._check_finite(losses, batch)
        if self.config.longest_gradient is not None:
            cameras = [module for module in (state.poses, state.intrinsics) if module is not None]
            shorten_gradients(state.model, cameras, self.config.longest_gradient)
        state.optimizer.step()
        if self._trains_cameras:
            for optimizer in state.camera_optimizers:
                optimizer.step()
        self.feed.learn(batch, outputs)
        return losses, squared_error(outputs, batch.ground_truth["rgb"]), outputs["points"].shape[0]

    @property
    def _trains_cameras(self) -> bool:
        return camera_learning_rate_at(self.state.epoch, self.config) > 0

    def _check_finite(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Stops before a step that would ruin the weights, with the state saved to look at."""
        state = self.state
        modules = [m for m in (state.model, state.poses, state.intrinsics) if m is not None]
        gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
        norms = torch.stack([(g.coalesce().values() if g.is_sparse else g).norm() for g in gradients])
        if bool(torch.isfinite(losses["loss"].detach() + norms.sum())):  # the step's one read by the host
            return
        terms = [name for name, value in losses.items() if not torch.isfinite(value)] or ["the gradient"]
        views = [
            getattr(self.dataset, "indices", range(len(self.dataset)))[i] for i in batch.indices.tolist()
        ]
        path = self.outputs.run / f"nonfinite_{state.epoch}_{state.step}.pth"
        content = {**state.to_parts(), "batch": vars(batch), "losses": dict(losses)}
        try:
            if self.ranks.is_first:
                write_atomic(path, lambda file: write_content(file, content))
            kept = f"the weights before the step are in {path}"
        except OutputError as error:  # that training had to stop is the news
            kept = f"the weights before the step are lost ({error})"
        raise TrainingStoppedError(
            f"epoch {state.epoch}, step {state.step}: {', '.join(terms)} not finite in view "
            f"{', '.join(map(str, views))}; {kept}, the last checkpoint is unharmed; "
            "lower train.learning_rate and continue with --is_continue"
        )

    def save(self) -> None:
        """Saves a checkpoint of the present state, unless the present state is the one last saved."""
        position = (self.state.epoch, self.state.step)
        if position == self._saved_at or not self.ranks.is_first:
            return
        name = checkpoint_name(*position)
        self.checkpoints.save(name, *position, self.state.to_parts(), self.config.keep_checkpoints)
        self._saved_at = position

    def _record(self, epoch: int, metrics: MetricsFile) -> None:
        """Writes an epoch's numbers."""
        if not self.ranks.is_first:
            return
        row: dict[str, float | int] = {"epoch": epoch, **self.state.averages.read()}
        self.stop.take_epoch(row.get("psnr", math.nan))
        row["alpha"] = float(self.loss.alpha)
        row["learning_rate"] = float(self.state.optimizer.param_groups[0]["lr"])
        row["minutes"] = self._seconds / 60
        row.update(self.feed.schedule.report(epoch, self.state.step - 1, self.state.model))
        if self.outputs.monitor is not None:
            row.update(self.outputs.monitor(self))
        inside = share_inside_at_sphere(self.state.model)
        if inside > FILLED:
            row[INSIDE_AT_SPHERE] = inside
        metrics.add(row)
        for finding in symptoms(metrics.rows):
            log.warning("%s", finding)
        if self.outputs.tensorboard is not None:
            self.outputs.tensorboard.scalars(row, epoch)

    def _asked_to_stop(self) -> bool:
        """Whether a signal came or the rule is met, in whichever process: all stop after the same step."""
        return self.ranks.any(self._stop_signal is not None or self.stop.is_met)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turns the first Ctrl-C or termination into a stop after the step; a second one acts at once."""

        def request_stop(number: int, frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = number
            log.warning("stopping after this step; once more to stop without saving")

        previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, request_stop)
        except ValueError:  # not in the main thread: signals are somebody else's
            pass
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
