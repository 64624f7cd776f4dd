"""The state of a training between steps, to and from the parts of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from idr.checkpoints.manifests import EXPOSURE
from idr.checkpoints.parts import check_trainer_state
from idr.errors import InputError
from idr.geometry.frames import check_frame
from idr.model.encodings.levels import load_open_levels, open_levels
from idr.model.weights import load_weights
from idr.training.cameras.intrinsics import LearnableIntrinsics
from idr.training.cameras.poses import LearnablePoses
from idr.training.cameras.trained import TrainedCameras
from idr.training.config import TrainConfig
from idr.training.exposure import Exposure
from idr.training.optimizers import load_optimizer, optimizer_state
from idr.training.progress import Averages
from idr.training.rays.error_maps import ErrorMaps
from idr.training.schedule.by_epoch import check_scheduler_state, scheduler_state

log = logging.getLogger(__name__)

Parts = dict[str, dict[str, Any]]


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        model: Geometry and appearance.
        optimizer: Adam over the model.
        cameras: Trained cameras with their optimizers, or None.
        config: The block ``train``.
        seed: Root of all random numbers.
        batch_size: Images of a batch.
        epoch: Epochs done.
        step: Steps done in the present epoch.
        averages: Sums over those steps, for ``metrics.csv``.
        scale_mat: (4, 4) float64 unit-sphere to world coordinates; None if the data set has none.
        error_maps: The importance sampler's error maps, or None.
        exposure: Exposures of the photographs with their optimizer, or None if they are fixed.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    cameras: TrainedCameras | None
    config: TrainConfig
    seed: int
    batch_size: int
    epoch: int = 0
    step: int = 0
    averages: Averages = field(default_factory=Averages)
    scale_mat: Tensor | None = None
    error_maps: ErrorMaps | None = None
    exposure: Exposure | None = None

    @property
    def poses(self) -> LearnablePoses | None:
        """Learnable poses, or None."""
        return None if self.cameras is None else self.cameras.poses

    @property
    def intrinsics(self) -> LearnableIntrinsics | None:
        """Learnable intrinsics, or None."""
        return None if self.cameras is None else self.cameras.intrinsics

    @property
    def camera_modules(self) -> list[nn.Module]:
        """Poses and intrinsics that are trained."""
        return [] if self.cameras is None else self.cameras.modules

    @property
    def modules_beside_model(self) -> list[nn.Module]:
        """Cameras and exposure that are trained."""
        return [*self.camera_modules, *([] if self.exposure is None else [self.exposure])]

    def to_parts(self) -> Parts:
        """Returns the dictionaries of the published files, and of ours for the rest of the state."""
        own: dict[str, Any] = {"step": self.step, "seed": self.seed, "batch_size": self.batch_size}
        own["averages"] = self.averages.to_plain()
        if self.scale_mat is not None:
            own["scale_mat"] = self.scale_mat
        scheduler = scheduler_state(self.config, self.epoch, self.optimizer)
        parts: Parts = {
            "ModelParameters": {"model_state_dict": self.model.state_dict()},
            "OptimizerParameters": {"optimizer_state_dict": optimizer_state(self.optimizer)},
            "SchedulerParameters": {"scheduler_state_dict": scheduler},
            "TrainerState": own,
        }
        model: Any = self.model
        tracer = model.tracer_state() if hasattr(model, "tracer_state") else None
        if tracer is not None:
            parts["TracerState"] = tracer
        schedule = {} if self.error_maps is None else self.error_maps.state()
        schedule |= open_levels(model, self.config.schedule.openings)
        if schedule:
            parts["RecipeState"] = schedule
        if self.cameras is not None:
            parts |= self.cameras.state()
        if self.exposure is not None:
            parts[EXPOSURE] = self.exposure.state()
        return {part: {"epoch": self.epoch, **content} for part, content in parts.items()}

    def load_position(
        self, parts: Mapping[str, Mapping[str, Any]], where: str, steps_per_epoch: int, keep_seed: bool
    ) -> None:
        """Loads epoch, step, averages and, unless `keep_seed`, seed of a checkpoint; see `load_parts`.

        Raises:
            InputError: The checkpoint is within an epoch of another batch size or number of steps, or does
                not fit.
        """
        self.epoch = int(parts["ModelParameters"]["epoch"])
        if "TrainerState" not in parts:
            return
        saved = parts["TrainerState"]
        check_trainer_state(saved, where)
        if self.cameras is None:
            check_frame(saved.get("scale_mat"), self.scale_mat, where)
        step, batch_size = int(saved["step"]), int(saved.get("batch_size", self.batch_size))
        if step and batch_size != self.batch_size:
            raise InputError(
                f"{where} is within an epoch of --batch_size {batch_size}, got --batch_size "
                f"{self.batch_size}; continue with {batch_size}, or from a checkpoint between epochs "
                "(TrainerState.batch_size)"
            )
        if step >= steps_per_epoch:
            raise InputError(
                f"{where}, TrainerState.step: got {step}; expected 0 to {steps_per_epoch - 1}, as an epoch "
                f"of this scene has {steps_per_epoch} steps; continue with the scene and dataset.holdout of "
                "the run, or from a checkpoint between epochs"
            )
        self.step = step
        if "averages" in saved:
            self.averages = Averages.from_plain(saved["averages"])
        if not keep_seed:
            self.seed = int(saved["seed"])

    def load_parts(self, parts: Mapping[str, Mapping[str, Any]], where: str) -> None:
        """Loads the state of all components from a checkpoint, ours or the published code's, named `where`.

        Raises:
            InputError: The checkpoint is of another architecture or other images, or does not fit.
        """
        remedy = "use the conf that the checkpoint was trained with (runconf.conf in its run folder)"
        load_weights(self.model, parts["ModelParameters"]["model_state_dict"], where, remedy)
        if "OptimizerParameters" in parts:
            saved = parts["OptimizerParameters"]
            load_optimizer(self.optimizer, saved, where, "OptimizerParameters", "optimizer_state_dict")
        else:
            log.warning("%s holds no OptimizerParameters: that part starts anew", where)
        if "SchedulerParameters" in parts:
            check_scheduler_state(parts["SchedulerParameters"], where)
        if self.cameras is not None:
            self.cameras.load_state(parts, where)
        elif "CamParameters" in parts:
            raise InputError(
                f"{where} holds trained cameras (CamParameters), which the surface goes with; continue "
                "it with --train_cameras, or start a new run without"
            )
        if self.exposure is not None:
            self.exposure.load_state(parts.get(EXPOSURE), where)
        elif EXPOSURE in parts:
            raise InputError(
                f"{where} holds exposures of the photographs ({EXPOSURE}), which its colors go with; "
                "continue it with train.exposure.type = per_image, or start a new run without"
            )
        model: Any = self.model
        if "TracerState" in parts and hasattr(model, "load_tracer_state"):
            model.load_tracer_state(parts["TracerState"], where)
        schedule = parts.get("RecipeState", {})
        if self.error_maps is not None:
            self.error_maps.load_state(schedule, where)
        load_open_levels(model, schedule, self.config.schedule.openings, f"{where}, RecipeState")
