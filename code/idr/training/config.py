"""The block ``train`` of a conf."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from idr.errors import InputError
from idr.training.cameras.intrinsics import CamerasConfig
from idr.training.rays.config import SamplerConfig
from idr.training.schedule.config import ScheduleConfig


@dataclass(frozen=True)
class ExposureConfig:
    """Keys of the block ``train.exposure``; all but ``type`` belong to ``type = per_image``.

    Attributes:
        type: ``fixed`` (published): photographs show the scene's colors c; or ``per_image``: they show
            exp(g) c + o, for colors in [0, 1], with a g and an o learned for each training view and channel.
        learning_rate: Adam's learning rate for g and o; it follows the schedule of the model's.
        weight: Weight in the loss of the mean over views of the squares of g and o.
    """

    type: Literal["fixed", "per_image"] = "fixed"
    learning_rate: float = 5e-3
    weight: float = 0.01

    def __post_init__(self) -> None:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if self.type == "fixed" and changed:
            raise InputError(
                f"{changed[0]}: belongs to type = per_image, got type = fixed; set the type, or leave the "
                "key out"
            )
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate = {self.learning_rate}: expected a learning rate above 0")
        if self.weight < 0:
            raise InputError(f"weight = {self.weight}: expected 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """Keys of the block ``train``. The last group is ours; the published confs do without.

    Attributes:
        expname: Name of the experiment.
        dataset_class: Class path of the data set.
        model_class: Class path of the model.
        loss_class: Class path of the loss.
        learning_rate: Adam's learning rate.
        num_pixels: Rays per image and step.
        plot_freq: Epochs between plots.
        alpha_milestones: Epochs at which the mask loss's alpha is multiplied by `alpha_factor`.
        alpha_factor: That factor.
        sched_milestones: Epochs at which the learning rate is multiplied by `sched_factor`.
        sched_factor: That factor.
        learning_rate_cam: SparseAdam's learning rate for camera poses; required to train cameras.
        cam_warmup_epochs: First epochs in which cameras are frozen.
        cam_sched_milestones: Epochs at which the cameras' learning rate is multiplied by `cam_sched_factor`.
        cam_sched_factor: That factor.
        checkpoint_freq: Epochs between checkpoints.
        keep_checkpoints: Number of numbered checkpoints to keep; absent for all.
        pixel_sampling: ``per_image`` draws pixels for each image; ``per_epoch`` draws one set of pixels an
            epoch for all images, as the published code does.
        images_per_step: Images that share the `num_pixels` rays of a step (with ``--batch_size`` B: B times
            as many images and rays). An epoch keeps its number of steps and uses each image that many times.
        max_grad_norm: Norm of the gradient of all model parameters above which it is clipped; gradients of
            cameras are scaled by the same factor. Absent: never.
        capture: ``off``; or ``auto``: a device with CUDA graphs records a step and repeats it, which saves
            launching its operators one by one; other devices run the same step as it is. ``auto`` needs
            ``model.ray_tracer.strategy = fixed``.
        cameras: The block on trained cameras.
        sampler: The block on importance sampling of pixels.
        exposure: The block on exposures that change from photograph to photograph.
        schedule: The block on settings that change from step to step.
    """

    LARGEST: ClassVar[dict[str, int]] = {"num_pixels": 10_000_000}

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"longest_gradient": "max_grad_norm"}

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
    max_grad_norm: float | None = None
    capture: Literal["off", "auto"] = "off"
    cameras: CamerasConfig = field(default_factory=CamerasConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        for name in ("num_pixels", "plot_freq", "checkpoint_freq", "images_per_step"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name} = {getattr(self, name)}: expected 1 or more")
        for name in ("learning_rate", "max_grad_norm", "learning_rate_cam"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                kind = "norm" if name == "max_grad_norm" else "learning rate"
                raise InputError(f"train.{name} = {value}: expected a {kind} above 0")
        if self.keep_checkpoints is not None and self.keep_checkpoints < 1:
            raise InputError(
                f"train.keep_checkpoints = {self.keep_checkpoints}: expected 1 or more, or no such key"
            )
        self._check_pixels()

    @property
    def reductions(self) -> tuple[int, ...]:
        """Factors by which images are reduced in early steps."""
        return () if self.schedule.pyramid is None else self.schedule.pyramid.factors

    def _check_pixels(self) -> None:
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
