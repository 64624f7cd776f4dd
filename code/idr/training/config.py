"""The block ``train`` of a conf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from idr.errors import InputError
from idr.training.cameras.intrinsics import CamerasConfig
from idr.training.rays.config import SamplerConfig
from idr.training.schedule.config import ScheduleConfig


@dataclass(frozen=True)
class TrainConfig:
    """Keys of the block ``train``. The last group is ours; the published confs do without.

    Attributes:
        expname: Name of the experiment.
        dataset_class: Class path of the data set.
        model_class: Class path of the model.
        loss_class: Class path of the loss.
        learning_rate: Adam's step size.
        num_pixels: Rays an image and step.
        plot_freq: Epochs between plots.
        alpha_milestones: Epochs from which the mask loss's alpha has grown by `alpha_factor` once more.
        alpha_factor: That factor.
        sched_milestones: Epochs from which the learning rate has shrunk by `sched_factor` once more.
        sched_factor: That factor.
        learning_rate_cam: SparseAdam's step size for camera poses; needed to train cameras.
        cam_warmup_epochs: Epochs at the start in which poses are held.
        cam_sched_milestones: Epochs from which the poses' step size has changed by `cam_sched_factor` again.
        cam_sched_factor: That factor.
        checkpoint_freq: Epochs between checkpoints.
        keep_checkpoints: Numbered checkpoints to keep; absent for all.
        pixel_sampling: ``per_image`` draws pixels anew for each image; ``per_epoch`` draws one set an epoch
            for all images, as the published code does.
        images_per_step: Images that share a step's `num_pixels` rays (of ``--batch_size`` B: B as many images
            and rays). An epoch keeps its number of steps, and shows each image as many times.
        longest_gradient: Norm, over all of the model's parameters, to which longer gradients are shortened,
            those of cameras by the same factor; absent for never.
        cameras: What of the cameras is trained beyond the published, a block of its own.
        sampler: Which pixels are drawn more often, a block of its own.
        schedule: What changes from step to step, a block of its own.
    """

    expname: str
    dataset_class: str
    model_class: str
    loss_class: str
    learning_rate: float
    num_pixels: int
    plot_freq: int = 100
    alpha_milestones: tuple[int, ...] = ()
    alpha_factor: float = 0.0
    sched_milestones: tuple[int, ...] = ()
    sched_factor: float = 0.0
    learning_rate_cam: float | None = None
    cam_warmup_epochs: int = 0
    cam_sched_milestones: tuple[int, ...] = ()
    cam_sched_factor: float = 1.0
    checkpoint_freq: int = 100
    keep_checkpoints: int | None = None
    pixel_sampling: Literal["per_image", "per_epoch"] = "per_image"
    images_per_step: int = 1
    longest_gradient: float | None = None
    cameras: CamerasConfig = field(default_factory=CamerasConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        for name in ("num_pixels", "plot_freq", "checkpoint_freq", "images_per_step"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name} = {getattr(self, name)}: expected 1 or more")
        if self.learning_rate <= 0:
            raise InputError(f"train.learning_rate = {self.learning_rate}: expected a step size above 0")
        if self.longest_gradient is not None and self.longest_gradient <= 0:
            raise InputError(f"train.longest_gradient = {self.longest_gradient}: expected a norm above 0")
        if self.learning_rate_cam is not None and self.learning_rate_cam <= 0:
            raise InputError(
                f"train.learning_rate_cam = {self.learning_rate_cam}: expected a step size above 0"
            )
        if self.keep_checkpoints is not None and self.keep_checkpoints < 1:
            raise InputError(
                f"train.keep_checkpoints = {self.keep_checkpoints}: expected 1 or more, or no such key"
            )
        self._check_pixels()

    @property
    def reductions(self) -> tuple[int, ...]:
        """Factors by which images are reduced at times, none for never."""
        return () if self.schedule.pyramid is None else self.schedule.pyramid.factors

    def _check_pixels(self) -> None:
        """Checks that what chooses pixels fits together."""
        if self.num_pixels % self.images_per_step:
            raise InputError(
                f"train.images_per_step = {self.images_per_step}: expected a divisor of train.num_pixels, "
                f"{self.num_pixels}, as images have the same number of rays"
            )
        by_importance = self.sampler.type == "importance"
        if self.pixel_sampling == "per_epoch" and (by_importance or self.reductions):
            raise InputError(
                "train.pixel_sampling = per_epoch: draws the same pixels of all images, which neither "
                "train.sampler.type = importance nor train.schedule.pyramid can; expected per_image"
            )
        uneven = [factor for factor in self.reductions if self.sampler.error_cell % factor]
        if by_importance and uneven:
            raise InputError(
                f"train.sampler.error_cell = {self.sampler.error_cell}: expected a multiple of each of "
                f"train.schedule.pyramid.factors, got {uneven[0]}"
            )
