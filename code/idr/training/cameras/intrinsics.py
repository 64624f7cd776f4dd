"""What of the cameras is trained beyond the published: the block ``train.cameras``, and learnable intrinsics.

B images of the scene, b images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from idr.errors import InputError
from idr.geometry.cameras import corrected_intrinsics
from idr.training.cameras.poses import LearnablePoses, OrbitPoses, TwistPoses

Sharing = Literal["fixed", "shared", "per_image"]


@dataclass(frozen=True)
class CamerasConfig:
    """Keys of the block ``train.cameras``; absent, cameras are trained as published. Needs --train_cameras.

    Attributes:
        poses: ``quaternion`` (published: unit quaternion and center), ``se3`` (`TwistPoses`) or ``orbit``
            (`OrbitPoses`).
        orbit_scale: Of ``orbit``: how much shorter steps of centers are than those of rotations.
        hold_centers: Of ``orbit``: until when the cameras only turn in place, a fraction of the schedule
            (`idr.training.schedule.config`). Before pictures lie where they should, what moves the centers is
            chance.
        moments: ``each``: SparseAdam, as published; ``matrix``: `RowAdam`, which sees all numbers of a pose
            together, for ``se3`` and ``orbit``. Of the poses; intrinsics keep SparseAdam.
        betas: The optimizers' decay rates of the means of gradients and of their squares; an image's means
            decay in the steps that it has part in.
        frozen: Poses that stay where they start: ``none``, ``first`` or ``all``. A reconstruction is
            determined only up to a similarity of the whole scene, so that all cameras can drift together with
            the surface at no cost; with the first one held, turning and shifting the scene does cost.
        focal: ``fixed``, or one factor that is ``shared`` by all images, or one ``per_image``.
        principal_point: Likewise.
        learning_rate_intrinsics: SparseAdam's step size for them; absent, ``train.learning_rate_cam``. It
            follows the poses' warm-up and schedule.
    """

    poses: Literal["quaternion", "se3", "orbit"] = "quaternion"
    orbit_scale: float = 1.0
    hold_centers: float = 0.0
    moments: Literal["each", "matrix"] = "each"
    betas: tuple[float, float] = (0.9, 0.999)
    frozen: Literal["none", "first", "all"] = "none"
    focal: Sharing = "fixed"
    principal_point: Sharing = "fixed"
    learning_rate_intrinsics: float | None = None

    def __post_init__(self) -> None:
        rate = self.learning_rate_intrinsics
        if rate is not None and rate <= 0:
            raise InputError(f"learning_rate_intrinsics = {rate}: expected a step size above 0")
        if self.orbit_scale <= 0:
            raise InputError(f"orbit_scale = {self.orbit_scale}: expected a factor above 0")
        if not 0 <= self.hold_centers <= 1:
            raise InputError(
                f"hold_centers = {self.hold_centers}: expected a fraction of the schedule, 0 to 1"
            )
        for name, value, usual in (
            ("orbit_scale", self.orbit_scale, 1),
            ("hold_centers", self.hold_centers, 0),
        ):
            if value != usual and self.poses != OrbitPoses.kind:
                raise InputError(f"{name} = {value}: belongs to poses = orbit, got poses = {self.poses}")
        if self.moments == "matrix" and self.poses == LearnablePoses.kind:
            raise InputError(
                "moments = matrix: the optimizer of quaternions is saved in the published form, which has no "
                "place for matrices; expected poses = se3 or orbit"
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
        """Whether a focal length or a principal point is trained."""
        return self.focal != "fixed" or self.principal_point != "fixed"


class LearnableIntrinsics(nn.Module):
    """Corrections of the given intrinsics, see `corrected_intrinsics`; no correction at the start.

    Args:
        given: (B, 4, 4) K of the images.
        config: What is trained, and for which images together.

    Attributes:
        tables: The embeddings that are trained, by key of the conf: ``focal`` (1 or B, 1) and
            ``principal_point`` (1 or B, 2), with sparse gradients.
    """

    def __init__(self, given: Tensor, config: CamerasConfig) -> None:
        super().__init__()
        self.given: Tensor
        self.register_buffer("given", given.clone(), persistent=False)
        self.tables = nn.ModuleDict()
        for name, width in (("focal", 1), ("principal_point", 2)):
            sharing = getattr(config, name)
            if sharing != "fixed":
                count = 1 if sharing == "shared" else len(given)
                self.tables[name] = nn.Embedding(
                    count, width, sparse=True, _weight=given.new_zeros(count, width)
                )

    def forward(self, indices: Tensor) -> Tensor:
        """Returns K, (b, 4, 4), of (b,) images."""
        corrections = []
        for name, width in (("focal", 1), ("principal_point", 2)):
            if name in self.tables:
                corrections.append(self.tables[name](self.rows(name, indices)))  # (b, 1 or 2)
            else:
                corrections.append(self.given.new_zeros(len(indices), width))
        return corrected_intrinsics(self.given[indices], *corrections)

    def rows(self, name: str, indices: Tensor) -> Tensor:
        """Returns the rows of a table that (b,) images use."""
        table: Any = self.tables[name]
        return torch.zeros_like(indices) if table.num_embeddings == 1 else indices

    def weights(self) -> dict[str, Tensor]:
        """Returns the trained tables by key of the conf."""
        return {name: cast(nn.Embedding, table).weight for name, table in self.tables.items()}

    def matrices(self) -> Tensor:
        """Returns K, (B, 4, 4), of all images, without gradient."""
        with torch.no_grad():
            return self(torch.arange(len(self.given), device=self.given.device))


def given_intrinsics(dataset: Any) -> Tensor:
    """Returns (B, 4, 4) K of a data set's images; any that keeps the published seam."""
    if hasattr(dataset, "intrinsics"):
        return torch.as_tensor(dataset.intrinsics).float()
    dataset.change_sampling_idx(1)
    return torch.stack([dataset[k][1]["intrinsics"] for k in range(len(dataset))]).float()


def make_cameras(dataset: Any, config: CamerasConfig) -> tuple[LearnablePoses, LearnableIntrinsics | None]:
    """Builds what of a scene's cameras is trained.

    Args:
        dataset: The images; gives where poses and intrinsics start.
        config: What is wanted.

    Returns:
        The poses, and the intrinsics unless these are fixed; on the CPU.
    """
    start = dataset.get_pose_init().float()
    frozen = {"none": range(0), "first": range(1), "all": range(len(start))}[config.frozen]
    intrinsics = LearnableIntrinsics(given_intrinsics(dataset), config) if config.trains_intrinsics else None
    if config.poses == OrbitPoses.kind:
        return OrbitPoses(start, frozen, config.orbit_scale), intrinsics
    kind = {kind.kind: kind for kind in (LearnablePoses, TwistPoses)}[config.poses]
    return kind(start, frozen), intrinsics
