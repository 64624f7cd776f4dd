"""The training loop.

B images of a batch, P pixels of an image, R = B P rays.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idr.checkpoints.folder import CheckpointFolder, checkpoint_name
from idr.geometry.frames import frame_of
from idr.model.encodings.levels import find_encoding, open_levels
from idr.training.cameras.intrinsics import LearnableIntrinsics
from idr.training.cameras.poses import LearnablePoses, OrbitPoses
from idr.training.cameras.trained import TrainedCameras
from idr.training.capture import CapturedStep, check_capture
from idr.training.config import TrainConfig
from idr.training.diagnostics import FILLED, INSIDE_AT_SPHERE, diagnose, share_inside_at_sphere
from idr.training.exposure import Exposure
from idr.training.nonfinite import stop_training
from idr.training.optimizers import (
    OTHERS,
    clip_gradients,
    gradient_norm,
    make_optimizer,
    set_learning_rates,
)
from idr.training.processes.distributed import OneProcess
from idr.training.progress import Averages, MetricsFile, ProgressLine, TensorBoardLog, squared_error
from idr.training.rays.batches import Batch, RayBatches
from idr.training.rays.randomness import Stream, generator_for
from idr.training.schedule.by_step import Schedule
from idr.training.schedule.checks import check_schedule
from idr.training.schedule.settings import StepSettings
from idr.training.state import TrainingState
from idr.training.stopping import RunFolder, StopRule, StopSignals
from idr.training.terms.build import Term
from idr.training.terms.step import StepRays, all_cameras

log = logging.getLogger(__name__)

Plot = Callable[["Trainer", int], None]
Monitor = Callable[["Trainer"], Mapping[str, float]]


@dataclass(frozen=True)
class RunWriters:
    """What writes the files of a run.

    Attributes:
        run: The run's folder.
        plot: Called every `plot_freq` epochs with the trainer and the epoch; None for no plots.
        monitor: Returns further columns of ``metrics.csv`` after each epoch; None for none.
        tensorboard: TensorBoard's log, or None.
    """

    run: Path
    plot: Plot | None = None
    monitor: Monitor | None = None
    tensorboard: TensorBoardLog | None = None


class Trainer:
    """Trains geometry, appearance and, optionally, cameras.

    Args:
        dataset: The images; the seam of `SceneDataset`.
        model: The seam of `IDRNetwork`, on its device.
        loss: The seam of `IDRLoss`; its `alpha` follows the schedule.
        config: The block ``train``.
        num_epochs: Epochs of the run, counted from its start.
        batch_size: Images of a batch.
        seed: Root of all random numbers.
        outputs: Writers of the run's files.
        poses: Learnable poses on the model's device, or None for the data set's.
        intrinsics: Learnable intrinsics, likewise.
        terms: Further terms of the loss.
        group: The processes that share the rays; only the first of them writes.
        stop: What ends training before `num_epochs`; None for signals alone.

    Attributes:
        model: The model as a training step calls it; with several processes, on their shares of the rays.
        interrupted: Whether a signal ended training.
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
        outputs: RunWriters,
        poses: LearnablePoses | None = None,
        intrinsics: LearnableIntrinsics | None = None,
        terms: Sequence[Term] = (),
        group: OneProcess | None = None,
        stop: StopRule | None = None,
    ) -> None:
        self.dataset, self.loss, self.config, self.outputs = dataset, loss, config, outputs
        self.num_epochs, self.terms = num_epochs, terms
        self.group = group or OneProcess()
        self.stop = stop or StopRule()
        self.interrupted = False
        self.model = self.group.wrap(model)
        check_schedule(config, dataset, model, loss, batch_size)
        self.rays = RayBatches(dataset, batch_size, config)
        self.device = next(model.parameters()).device
        self.schedule = Schedule(config, num_epochs, self.rays.steps_per_epoch, loss.alpha, model)
        self.settings = self.schedule.at(0, 0)
        fixed = config.exposure.type == "fixed"
        self.state = TrainingState(
            model,
            make_optimizer(model, config),
            None if poses is None else TrainedCameras(poses, intrinsics, config),
            config,
            seed,
            batch_size,
            scale_mat=frame_of(dataset),
            error_maps=self.rays.error_maps,
            exposure=None if fixed else Exposure(len(dataset), config.exposure, self.device),
        )
        self._open_levels(self.settings)
        check_capture(config, model, terms, poses is not None, self.group.size)
        self.captured = None
        if config.capture == "auto":
            self.captured = CapturedStep(model, loss, self.state.optimizer, config.max_grad_norm)
        self._folder, self.checkpoints = RunFolder(outputs.run), CheckpointFolder(outputs.run / "checkpoints")
        self._seconds = 0.0  # spent in training steps, before and after interruptions
        self._signals = StopSignals()
        self._saved_at: tuple[int, int] | None = None

    def resume(self, source: CheckpointFolder, name: str, keep_seed: bool) -> None:
        """Loads a checkpoint.

        Args:
            source: Its folder.
            name: Its name.
            keep_seed: Keep the own seed, not the checkpoint's.

        Raises:
            InputError: It does not fit.
        """
        parts = source.load_all(name, map_location=self.device)
        where = f"checkpoint {name} in {source.path}"
        state = self.state
        state.load_position(parts, where, self.rays.steps_per_epoch, keep_seed)
        self._open_levels(self.schedule.at(state.epoch, state.step))  # for checkpoints without open levels
        state.load_parts(parts, where)
        saved = state.optimizer.param_groups[0]["lr"]
        self._set_rates_of_epoch()
        rate = state.optimizer.param_groups[0]["lr"]
        if not math.isclose(saved, rate):
            log.warning("%s: learning rate %g goes on as %g, after the conf", where, saved, rate)
        if source.path == self.checkpoints.path and "TrainerState" in parts:
            self._saved_at = (state.epoch, state.step)

    def move_to(self, run: Path) -> None:
        """Continues in another run's folder; the first checkpoint there is the present state."""
        self.outputs = replace(self.outputs, run=run)
        self._folder, self.checkpoints = RunFolder(run), CheckpointFolder(run / "checkpoints")
        self._saved_at = None

    def train(self) -> bool:
        """Trains up to `num_epochs`; saves checkpoints on the way and at the end.

        Returns:
            True if all epochs are done, False if a signal or the stop rule ended training early (the state
            is saved).

        Raises:
            TrainingStoppedError: A loss or a gradient is not finite.
            OutputError: A checkpoint cannot be written.
        """
        state = self.state
        metrics = MetricsFile(self.outputs.run / "metrics.csv", state.epoch)
        self._seconds = metrics.minutes_so_far * 60
        line = ProgressLine(self.num_epochs, self.rays.steps_per_epoch, self.stop.seconds_left)
        if self.outputs.tensorboard is not None:
            self.outputs.tensorboard.open(self.outputs.run / "tensorboard", state.epoch)
        with self._signals.watched(), self._folder.watched(), self.group.reporting_lost_processes():
            while state.epoch < self.num_epochs:
                epoch = state.epoch
                if state.step == 0:
                    with line.paused():
                        self._begin_epoch(epoch)
                self._train_epoch(epoch, line)
                if state.step >= self.rays.steps_per_epoch:
                    self._record(epoch, metrics)
                    state.epoch, state.step, state.averages = epoch + 1, 0, Averages()
                    self._set_rates_of_epoch()
                if self._must_stop():
                    break
            self.save()
            self.interrupted = self.group.any(self._signals.received)
        return state.epoch >= self.num_epochs

    def _begin_epoch(self, epoch: int) -> None:
        """Saves and plots at the conf's intervals."""
        if epoch % self.config.checkpoint_freq == 0:
            self.save()
        if self.outputs.plot is not None and epoch % self.config.plot_freq == 0:
            self.outputs.plot(self, epoch)
            if self.outputs.tensorboard is not None:
                self.outputs.tensorboard.images(self.outputs.run / "plots", epoch)

    def _train_epoch(self, epoch: int, line: ProgressLine) -> None:
        """Trains the remaining steps of an epoch, up to a stop."""
        state = self.state
        state.model.train()
        started = time.monotonic()
        reduction = lambda step: self.schedule.at(epoch, step).image_reduction  # noqa: E731
        for batch in self.rays.batches(state.seed, epoch, state.step, reduction):
            self._apply(self.schedule.at(epoch, state.step))
            self._check_captured()
            losses, error, rays = self._train_step(batch.to(self.device))
            state.step += 1
            state.averages.add(losses, error)
            line.step(epoch, state.step, losses, error, rays)
            if self._must_stop():
                break
        self._check_captured()
        self._seconds += time.monotonic() - started

    def _apply(self, settings: StepSettings) -> None:
        self.settings = settings
        set_learning_rates(self.state.optimizer, settings.learning_rates)
        if self.state.cameras is not None:
            self.state.cameras.apply(settings.camera_learning_rate, settings.intrinsics_learning_rate)
            if isinstance(self.state.poses, OrbitPoses):
                self.state.poses.centers_frozen = settings.centers_frozen
        if self.state.exposure is not None:
            self.state.exposure.apply_rate(settings.learning_rates[OTHERS] / self.config.learning_rate)
        self.loss.alpha = settings.alpha
        self._open_levels(settings)

    def _open_levels(self, settings: StepSettings) -> None:
        for network, levels in settings.open_levels.items():
            encoding = find_encoding(self.state.model, network)
            assert encoding is not None  # the schedule asked it for its levels
            encoding.set_open_levels(levels)

    def _set_rates_of_epoch(self) -> None:
        """Sets Adam's learning rates of the coming epoch, which published checkpoints hold."""
        if self.config.schedule.learning_rate is None:
            rates = self.schedule.at(self.state.epoch, self.state.step).learning_rates
            set_learning_rates(self.state.optimizer, rates)

    def _train_step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, int]:
        """Trains one step; returns its losses, its `squared_error` and its number of rays."""
        if self.captured is not None:
            result = self.captured(batch)
            self.rays.update_errors(batch, result.outputs)
            return result.losses, result.error, result.outputs["points"].shape[0]
        state, cameras, exposure = self.state, self.state.cameras, self.state.exposure
        model_input = dict(batch.model_input)
        if cameras is not None:
            model_input |= cameras.inputs(batch.indices)
        outputs = self.model(model_input)
        if exposure is not None:
            outputs = exposure(batch.indices, outputs, batch.ground_truth["rgb"])
        losses = self.loss(outputs, batch.ground_truth)
        if exposure is not None:
            losses = exposure.add_penalty(losses)
        if self.terms:
            rays = StepRays.of(batch, model_input, outputs, self.settings.image_reduction)
            losses = self._add_terms(losses, rays)

        optimizers = [state.optimizer, *([] if cameras is None else cameras.optimizers)]
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses["loss"].backward()
        if cameras is not None:
            for table, rows in cameras.rows(batch.indices):
                self.group.average_row_gradient(table, rows)
        norm, others = gradient_norm([state.model]), gradient_norm(state.modules_beside_model)
        if not bool(torch.isfinite(losses["loss"].detach() + norm + others)):  # the one read by the host
            stop_training(state, losses, batch, self.dataset, self.outputs.run, self.group.is_first)
        if self.config.max_grad_norm is not None:
            clip_gradients(state.model, state.camera_modules, self.config.max_grad_norm, norm)
        for optimizer in optimizers[:1] if self.settings.cameras_frozen else optimizers:
            optimizer.step()
        if exposure is not None:
            exposure.step()
        self.rays.update_errors(batch, outputs)
        return losses, squared_error(outputs, batch.ground_truth["rgb"]), outputs["points"].shape[0]

    def _add_terms(self, losses: Mapping[str, Tensor], rays: StepRays) -> dict[str, Tensor]:
        state = self.state
        cameras = all_cameras(self.dataset, state.cameras, self.device)
        generator = generator_for(state.seed, Stream.TERMS, state.epoch, state.step)
        added = {term.name: term(rays, cameras, self.settings.time, generator) for term in self.terms}
        total = losses["loss"] + torch.stack(list(added.values())).sum()
        return {**losses, **added, "loss": total}

    def _check_captured(self) -> None:
        """Stops if the last captured step, whose update the device skipped, was not finite."""
        last = None if self.captured is None else self.captured.last
        if last is not None and not bool(last[1].finite):  # the step's one read by the host
            self.state.step -= 1
            stop_training(self.state, last[1].losses, last[0], self.dataset, self.outputs.run, saves=True)

    def save(self) -> None:
        """Saves a checkpoint of the present state, unless it is saved already."""
        position = (self.state.epoch, self.state.step)
        if position == self._saved_at or not self.group.is_first:
            return
        self._folder.check()
        name = checkpoint_name(*position)
        self.checkpoints.save(name, *position, self.state.to_parts(), self.config.keep_checkpoints)
        self._saved_at = position

    def _record(self, epoch: int, metrics: MetricsFile) -> None:
        if not self.group.is_first:
            return
        self._folder.check()
        row: dict[str, float | int] = {"epoch": epoch, **self.state.averages.read()}
        self.stop.record_epoch(row.get("psnr", math.nan))
        row["alpha"] = float(self.loss.alpha)
        row["learning_rate"] = float(self.state.optimizer.param_groups[0]["lr"])
        row["minutes"] = self._seconds / 60
        row.update(open_levels(self.state.model, self.config.schedule.openings))
        if self.config.schedule.pyramid is not None:
            row["image_reduction"] = self.settings.image_reduction
        if self.outputs.monitor is not None:
            row.update(self.outputs.monitor(self))
        inside = share_inside_at_sphere(self.state.model)
        if inside > FILLED:
            row[INSIDE_AT_SPHERE] = inside
        metrics.add(row)
        for finding in diagnose(metrics.rows):
            log.warning("%s", finding)
        if self.outputs.tensorboard is not None:
            self.outputs.tensorboard.scalars(row, epoch)

    def _must_stop(self) -> bool:
        """Whether any process got a signal or met the stop rule: all stop after the same step."""
        return self.group.any(self._signals.received or self.stop.is_met)
