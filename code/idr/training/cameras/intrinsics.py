"""The block ``train.cameras``, and learnable intrinsics.

B images of the scene, b images of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from idr.checkpoints.parts import check_intrinsics
from idr.errors import InputError
from idr.geometry.cameras import corrected_intrinsics
from idr.training.cameras.poses import LearnablePoses, OrbitPoses, TwistPoses

Sharing = Literal["fixed", "shared", "per_image"]
WIDTHS = {"focal": 1, "principal_point": 2}
"""Numbers of each correction."""


@dataclass(frozen=True)
class CamerasConfig:
    """Keys of the block ``train.cameras``; needs --train_cameras. The defaults are as published.

    Attributes:
        poses: Parametrization: ``quaternion`` (published: quaternion and center), ``se3`` (`TwistPoses`) or
            ``orbit`` (`OrbitPoses`).
        orbit_scale: For ``orbit``: ratio of the step of camera centers to that of rotations.
        freeze_centers_until: For ``orbit``: fraction of training in which the cameras only rotate in place.
            Before images are roughly aligned, the gradient of the centers is mostly noise.
        preconditioner: ``diagonal`` (SparseAdam, published) or ``full`` (`RowAdam`, the full matrix of second
            moments of each pose; for ``se3`` and ``orbit``). Intrinsics always use SparseAdam.
        betas: The optimizers' decay rates of the means of gradients and of their squares; an image's means
            decay only in steps that use the image.
        frozen: Poses that are not trained: ``none``, ``first`` or ``all``. Fixing one pose removes the global
            rotation and translation ambiguity (scale stays free).
        focal: Focal length: ``fixed``, one factor ``shared`` by all images, or one ``per_image``.
        principal_point: Likewise.
        learning_rate_intrinsics: SparseAdam's learning rate for intrinsics, with the poses' warm-up and
            schedule; absent, ``train.learning_rate_cam``.
    """

    RENAMED_KEYS: ClassVar[dict[str, str]] = {
        "moments": "preconditioner",
        "hold_centers": "freeze_centers_until",
        "hold_centres": "freeze_centers_until",
    }
    RENAMED_VALUES: ClassVar[dict[str, dict[str, str]]] = {
        "preconditioner": {"each": "diagonal", "matrix": "full"}
    }

    poses: Literal["quaternion", "se3", "orbit"] = "quaternion"
    orbit_scale: float = 1.0
    freeze_centers_until: float = 0.0
    preconditioner: Literal["diagonal", "full"] = "diagonal"
    betas: tuple[float, float] = (0.9, 0.999)
    frozen: Literal["none", "first", "all"] = "none"
    focal: Sharing = "fixed"
    principal_point: Sharing = "fixed"
    learning_rate_intrinsics: float | None = None

    def __post_init__(self) -> None:
        rate = self.learning_rate_intrinsics
        if rate is not None and rate <= 0:
            raise InputError(f"learning_rate_intrinsics = {rate}: expected a learning rate above 0")
        if self.orbit_scale <= 0:
            raise InputError(f"orbit_scale = {self.orbit_scale}: expected a factor above 0")
        if not 0 <= self.freeze_centers_until <= 1:
            raise InputError(
                f"freeze_centers_until = {self.freeze_centers_until}: expected a fraction of training, 0 to 1"
            )
        for name, default in (("orbit_scale", 1), ("freeze_centers_until", 0)):
            value = getattr(self, name)
            if value != default and self.poses != OrbitPoses.kind:
                raise InputError(f"{name} = {value}: belongs to poses = orbit, got poses = {self.poses}")
        if self.preconditioner == "full" and self.poses == LearnablePoses.kind:
            raise InputError(
                "preconditioner = full: the optimizer of quaternions is saved in the published form, which "
                "has no place for matrices; expected poses = se3 or orbit"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas = {list(self.betas)}: expected two numbers from 0 to below 1")
        if self.frozen == "all" and not self.trains_intrinsics:
            raise InputError(
                "frozen = all: with fixed intrinsics nothing of the cameras is left to train; train without "
                "--train_cameras, or set focal or principal_point"
            )

    @property
    def trains_intrinsics(self) -> bool:
        """Whether focal length or principal point are trained."""
        return self.focal != "fixed" or self.principal_point != "fixed"


class LearnableIntrinsics(nn.Module):
    """Corrections of the camera file's intrinsics, see `corrected_intrinsics`; they start at zero.

    Args:
        given: (B, 4, 4) K of the images, from the camera file.
        config: What is trained, and whether images share it.

    Attributes:
        tables: The trained embeddings by key of the conf: ``focal`` (1 or B, 1) and ``principal_point``
            (1 or B, 2), with sparse gradients.
    """

    def __init__(self, given: Tensor, config: CamerasConfig) -> None:
        super().__init__()
        self.given: Tensor
        self.register_buffer("given", given.clone(), persistent=False)
        self.tables = nn.ModuleDict()
        for name, width in WIDTHS.items():
            sharing = getattr(config, name)
            if sharing != "fixed":
                weight = given.new_zeros(1 if sharing == "shared" else len(given), width)
                self.tables[name] = nn.Embedding(len(weight), width, sparse=True, _weight=weight)

    def forward(self, indices: Tensor) -> Tensor:
        """Returns K, (b, 4, 4), of (b,) images."""
        corrections = (  # (b, 1) and (b, 2)
            self.tables[name](self.rows(name, indices))
            if name in self.tables
            else self.given.new_zeros(len(indices), width)
            for name, width in WIDTHS.items()
        )
        return corrected_intrinsics(self.given[indices], *corrections)

    def rows(self, name: str, indices: Tensor) -> Tensor:
        """Returns the rows of a table that (b,) images use."""
        table: Any = self.tables[name]
        return torch.zeros_like(indices) if table.num_embeddings == 1 else indices

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: the corrections, and the intrinsics that they belong to."""
        corrections = {name: weight.detach() for name, weight in self.weights().items()}
        return {"given_intrinsics": self.given, "intrinsics": corrections}

    def load_state(self, saved: Mapping[str, Any], where: str) -> None:
        """Loads what `state` returned.

        Raises:
            InputError: It does not fit, or belongs to other intrinsics or another conf.
        """
        check_intrinsics(saved, where)
        given = saved["given_intrinsics"].to(self.given)
        # The last bits of a decomposed projection matrix depend on the machine.
        if given.shape != self.given.shape or not torch.allclose(given, self.given, rtol=1e-5, atol=1e-3):
            raise InputError(
                f"{where} holds corrections of other intrinsics than the scene's "
                "(CameraState.given_intrinsics); continue with the cameras that the run was trained with "
                "(dataset.cam_file), or start a new run"
            )
        tables, own = saved["intrinsics"], self.weights()
        if {name: table.shape for name, table in tables.items()} != {n: w.shape for n, w in own.items()}:
            raise InputError(
                f"{where} holds trained intrinsics (CameraState.intrinsics) {_form(tables)}, the conf asks "
                f"for {_form(own)}; continue with the block train.cameras that the run was trained with, or "
                "start a new run"
            )
        with torch.no_grad():
            for name, table in tables.items():
                own[name].copy_(table)

    def weights(self) -> dict[str, Tensor]:
        """Returns the trained tables by key of the conf."""
        return {name: cast(nn.Embedding, table).weight for name, table in self.tables.items()}

    def matrices(self) -> Tensor:
        """Returns K, (B, 4, 4), of all images, without gradient."""
        with torch.no_grad():
            return self(torch.arange(len(self.given), device=self.given.device))


def given_intrinsics(dataset: Any) -> Tensor:
    """Returns K, (B, 4, 4), of the images of any data set with the published seam."""
    if hasattr(dataset, "intrinsics"):
        return torch.as_tensor(dataset.intrinsics).float()
    dataset.change_sampling_idx(1)
    return torch.stack([dataset[k][1]["intrinsics"] for k in range(len(dataset))]).float()


def make_cameras(dataset: Any, config: CamerasConfig) -> tuple[LearnablePoses, LearnableIntrinsics | None]:
    """Returns the learnable poses of a scene, and its intrinsics unless they are fixed; on the CPU."""
    start = dataset.get_pose_init().float()
    frozen = {"none": range(0), "first": range(1), "all": range(len(start))}[config.frozen]
    intrinsics = LearnableIntrinsics(given_intrinsics(dataset), config) if config.trains_intrinsics else None
    if config.poses == OrbitPoses.kind:
        return OrbitPoses(start, frozen, config.orbit_scale), intrinsics
    return (TwistPoses if config.poses == TwistPoses.kind else LearnablePoses)(start, frozen), intrinsics


def _form(tables: Mapping[str, Any]) -> str:
    counts = {name: len(table) for name, table in tables.items()}
    return ", ".join(f"{name} ({n} {'row' if n == 1 else 'rows'})" for name, n in counts.items())
