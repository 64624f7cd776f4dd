"""Everything that training carries from step to step, to and from the files of a checkpoint."""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from idr.errors import InputError
from idr.geometry.frames import check_frame
from idr.model.weights import load_weights
from idr.training.cameras.checkpoint import camera_state, load_camera_state
from idr.training.cameras.intrinsics import LearnableIntrinsics
from idr.training.cameras.poses import LearnablePoses
from idr.training.config import TrainConfig
from idr.training.optimizers import load_into, load_optimizer, settings_of, with_plain_steps
from idr.training.progress import Averages
from idr.training.rays.error_maps import ErrorMaps
from idr.training.schedule.by_epoch import learning_rate_at, rate_milestones
from idr.training.schedule.checkpoint import load_recipe_state, recipe_state

log = logging.getLogger(__name__)

Parts = dict[str, dict[str, Any]]


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        model: Geometry and appearance.
        optimizer: Adam over the model.
        scheduler: Its learning rate's schedule, one step an epoch.
        poses: Learnable cameras, or None.
        optimizer_cam: SparseAdam over the poses, or None.
        seed: Root of all random numbers.
        batch_size: Images a step.
        epoch: Passes over the images done.
        step: Steps done of the next pass.
        averages: Sums over those steps, for ``metrics.csv``.
        scale_mat: (4, 4) float64 unit-sphere to world coordinates of the scene, where the data set tells.
        intrinsics: Learnable intrinsics, or None.
        optimizer_intrinsics: SparseAdam over them, or None.
        error_maps: Where the model is wrong, for drawing pixels by importance, or None.
        opened_networks: Networks of the model whose encoding's levels open step by step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    poses: LearnablePoses | None
    optimizer_cam: torch.optim.Optimizer | None
    seed: int
    batch_size: int
    epoch: int = 0
    step: int = 0
    averages: Averages = field(default_factory=Averages)
    scale_mat: Tensor | None = None
    intrinsics: LearnableIntrinsics | None = None
    optimizer_intrinsics: torch.optim.Optimizer | None = None
    error_maps: ErrorMaps | None = None
    opened_networks: tuple[str, ...] = ()

    @property
    def camera_optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of poses and intrinsics that there are."""
        return [o for o in (self.optimizer_cam, self.optimizer_intrinsics) if o is not None]

    def camera_rows(self, indices: Tensor) -> Iterator[tuple[nn.Embedding, Tensor]]:
        """Yields each table of the cameras, and its rows that a batch of images, (B,), trains."""
        if self.poses is not None:
            yield self.poses, self.poses.rows(indices)
        if self.intrinsics is not None:
            for name, table in self.intrinsics.tables.items():
                yield cast(nn.Embedding, table), self.intrinsics.rows(name, indices)

    def to_parts(self) -> Parts:
        """Returns the dictionaries of the published files, then of ours for what else there is."""
        parts: Parts = {
            "ModelParameters": {"epoch": self.epoch, "model_state_dict": self.model.state_dict()},
            "OptimizerParameters": {
                "epoch": self.epoch,
                "optimizer_state_dict": with_plain_steps(self.optimizer.state_dict()),
            },
            "SchedulerParameters": {"epoch": self.epoch, "scheduler_state_dict": self.scheduler.state_dict()},
            "TrainerState": {
                "epoch": self.epoch,
                "step": self.step,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "averages": self.averages.to_plain(),
            },
        }
        if self.scale_mat is not None:
            parts["TrainerState"]["scale_mat"] = self.scale_mat
        model: Any = self.model
        tracer = model.tracer_state() if hasattr(model, "tracer_state") else None
        if tracer is not None:
            parts["TracerState"] = {"epoch": self.epoch, **tracer}
        recipe = recipe_state(self)
        if recipe:
            parts["RecipeState"] = {"epoch": self.epoch, **recipe}
        if self.poses is not None and self.optimizer_cam is not None:
            vectors = OrderedDict(weight=self.poses.vectors())  # published form, whatever is trained
            parts["CamParameters"] = {"epoch": self.epoch, "pose_vecs_state_dict": vectors}
            if self.poses.kind == LearnablePoses.kind:
                parts["OptimizerCamParameters"] = {
                    "epoch": self.epoch,
                    "optimizer_cam_state_dict": with_plain_steps(self.optimizer_cam.state_dict()),
                }
            beyond = camera_state(self)
            if beyond:
                parts["CameraState"] = {"epoch": self.epoch, **beyond}
        return parts

    def load_parts(self, parts: Mapping[str, Mapping[str, Any]], where: str, keep_seed: bool) -> None:
        """Takes over a checkpoint, ours or the published code's.

        Args:
            parts: Dictionaries by file kind; those of optimizers and scheduler may be absent.
            where: The checkpoint's name, for messages.
            keep_seed: Keep the own seed rather than the checkpoint's.

        Raises:
            InputError: The checkpoint is of another architecture, another set of images, or within an epoch
                of another batch size.
        """
        remedy = "use the conf that the checkpoint was trained with (runconf.conf in its run folder)"
        load_weights(self.model, parts["ModelParameters"]["model_state_dict"], where, remedy)
        self.epoch = int(parts["ModelParameters"]["epoch"])
        loaders: tuple[tuple[str, Any, Callable[[Any, Mapping[str, Any], str], None]], ...] = (
            ("Optimizer", self.optimizer, load_optimizer),
            ("Scheduler", self.scheduler, load_into),
        )
        for name, target, load in loaders:
            if f"{name}Parameters" in parts:
                load(target, parts[f"{name}Parameters"][f"{name.lower()}_state_dict"], where)
            else:
                log.warning("%s holds no %sParameters: that part starts anew", where, name)
        self._load_cameras(parts, where)
        model: Any = self.model
        if "TracerState" in parts and hasattr(model, "load_tracer_state"):
            model.load_tracer_state(parts["TracerState"], where)
        load_recipe_state(self, parts.get("RecipeState", {}), where)
        if "TrainerState" in parts:
            if self.poses is None:
                check_frame(parts["TrainerState"].get("scale_mat"), self.scale_mat, where)
            self._load_position(parts["TrainerState"], where, keep_seed)

    def follow_schedule(self, config: TrainConfig, where: str) -> None:
        """Puts Adam's step sizes where the conf's milestones have them at this epoch.

        A checkpoint brings its own schedule along, or none; the conf is what the user can change. Where
        they agree no bit changes. A schedule of steps sets step sizes anew at each step.

        Args:
            config: The block ``train``.
            where: The checkpoint's name, for messages.
        """
        scheduler: Any = self.scheduler
        settings = [settings_of(group.get("name"), config) for group in self.optimizer.param_groups]
        scheduler.base_lrs = [setting["lr"] for setting in settings]
        scheduler.milestones = Counter(rate_milestones(config))
        scheduler.gamma, scheduler.last_epoch = config.sched_factor, self.epoch
        for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
            start = setting.pop("lr")
            rate = learning_rate_at(self.epoch, config, start)
            group.update(setting, initial_lr=start)
            if config.schedule.learning_rate is not None:
                continue
            if not math.isclose(group["lr"], rate):
                log.warning("%s: learning rate %g goes on as %g, after the conf", where, group["lr"], rate)
            group["lr"] = rate

    def _load_position(self, own: Mapping[str, Any], where: str, keep_seed: bool) -> None:
        self.step = int(own["step"])
        batch_size = int(own.get("batch_size", self.batch_size))
        if self.step and batch_size != self.batch_size:
            raise InputError(
                f"{where} is within an epoch of --batch_size {batch_size}, got --batch_size "
                f"{self.batch_size}; continue with {batch_size}, or from a checkpoint between epochs"
            )
        if "averages" in own:
            self.averages = Averages.from_plain(own["averages"])
        if not keep_seed:
            self.seed = int(own["seed"])

    def _load_cameras(self, parts: Mapping[str, Mapping[str, Any]], where: str) -> None:
        if self.poses is None or self.optimizer_cam is None:
            if "CamParameters" in parts:
                raise InputError(
                    f"{where} holds trained cameras (CamParameters), which the surface goes with; continue "
                    "it with --train_cameras, or start a new run without"
                )
            return
        if "CamParameters" not in parts:
            raise InputError(
                f"{where} holds no trained cameras (CamParameters); continue it without --train_cameras, "
                "or start a new run with them"
            )
        weight = parts["CamParameters"]["pose_vecs_state_dict"]["weight"]
        if weight.shape[0] != self.poses.num_embeddings:
            raise InputError(
                f"{where} holds cameras of {weight.shape[0]} images, the scene has "
                f"{self.poses.num_embeddings}; continue with the scene and dataset.holdout of "
                "the run"
            )
        load_camera_state(self, parts.get("CameraState", {}), weight, where)
        if self.poses.kind != LearnablePoses.kind:
            return
        if "OptimizerCamParameters" in parts:
            load_into(self.optimizer_cam, parts["OptimizerCamParameters"]["optimizer_cam_state_dict"], where)
        else:
            log.warning("%s holds no OptimizerCamParameters: the poses' optimizer starts anew", where)
