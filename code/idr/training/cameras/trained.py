"""The trained cameras of a run: poses, intrinsics and their optimizers.

In checkpoints, ``CamParameters`` holds poses as the published code does, whatever their parametrization;
``OptimizerCamParameters`` the optimizer of quaternions; ``CameraState`` what is not published:

- ``poses``, the parametrization; for other parametrizations than quaternions ``twists``, ``start``,
  ``optimizer_poses`` and, for ``preconditioner = full``, ``moments``;
- with trained intrinsics ``given_intrinsics`` (B, 4, 4), ``intrinsics`` and ``optimizer_intrinsics``.

B images of the scene, b images of a batch.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from idr.checkpoints.parts import pose_vectors
from idr.checkpoints.schema import check, optional, text
from idr.errors import InputError
from idr.training.cameras.intrinsics import LearnableIntrinsics
from idr.training.cameras.poses import LearnablePoses, OrbitPoses, TwistPoses
from idr.training.cameras.row_adam import RowAdam
from idr.training.config import TrainConfig
from idr.training.optimizers import (
    OTHERS,
    load_optimizer,
    make_camera_optimizer,
    optimizer_state,
    set_learning_rates,
)

log = logging.getLogger(__name__)

Parts = dict[str, dict[str, Any]]

PRECONDITIONERS = {"each": "diagonal", "matrix": "full", "diagonal": "diagonal", "full": "full"}
"""Values of ``moments`` in checkpoints, and of ``train.cameras.preconditioner``."""
REMEDY = "continue with the block train.cameras that the run was trained with, or start a new run"


class TrainedCameras:
    """Learnable cameras, on their device, with their optimizers; intrinsics are None if they are fixed.

    `modules` and `optimizers` are those of the poses and, if they are trained, of the intrinsics.
    """

    def __init__(
        self, poses: LearnablePoses, intrinsics: LearnableIntrinsics | None, config: TrainConfig
    ) -> None:
        self.poses, self.intrinsics = poses, intrinsics
        self.modules: list[nn.Module] = [poses] if intrinsics is None else [poses, intrinsics]
        self.optimizers = [make_camera_optimizer(module, config) for module in self.modules]
        self.pose_optimizer = self.optimizers[0]

    def apply(self, pose_rate: float, intrinsics_rate: float) -> None:
        """Sets the learning rates of poses and intrinsics."""
        for optimizer, rate in zip(self.optimizers, (pose_rate, intrinsics_rate), strict=False):
            set_learning_rates(optimizer, {OTHERS: rate})

    def inputs(self, indices: Tensor) -> dict[str, Tensor]:
        """Returns the model's ``pose``, (b, 7) or (b, 4, 4), and ``intrinsics``, (b, 4, 4), if trained."""
        inputs = {"pose": self.poses(indices)}
        if self.intrinsics is not None:
            inputs["intrinsics"] = self.intrinsics(indices)
        return inputs

    def rows(self, indices: Tensor) -> Iterator[tuple[nn.Embedding, Tensor]]:
        """Yields each embedding, and its rows that a batch of images, (b,), trains."""
        yield self.poses, self.poses.rows(indices)
        if self.intrinsics is not None:
            for name, embedding in self.intrinsics.tables.items():
                yield cast(nn.Embedding, embedding), self.intrinsics.rows(name, indices)

    def state(self) -> Parts:
        """Returns the parts of a checkpoint, without their epoch."""
        parts: Parts = {"CamParameters": {"pose_vecs_state_dict": OrderedDict(weight=self.poses.vectors())}}
        own = self.poses.state()
        pose_optimizer = optimizer_state(self.pose_optimizer)
        if self.poses.kind == LearnablePoses.kind:
            parts["OptimizerCamParameters"] = {"optimizer_cam_state_dict": pose_optimizer}
        else:
            own["optimizer_poses"] = pose_optimizer
            if isinstance(self.pose_optimizer, RowAdam):
                own["moments"] = "matrix"
        if self.intrinsics is not None:
            own |= self.intrinsics.state()
            own["optimizer_intrinsics"] = optimizer_state(self.optimizers[1])
        if own:
            parts["CameraState"] = {**own, "poses": self.poses.kind}
        return parts

    def load_state(self, parts: Mapping[str, Mapping[str, Any]], where: str) -> None:
        """Loads what `state` returned, or the published parts; `where` names the checkpoint.

        Raises:
            InputError: The checkpoint has no cameras, or was trained with other settings or images.
        """
        if "CamParameters" not in parts:
            raise InputError(
                f"{where} holds no trained cameras (CamParameters); continue it without --train_cameras, "
                "or start a new run with them"
            )
        vectors = pose_vectors(parts["CamParameters"], where)
        if len(vectors) != self.poses.num_embeddings:
            raise InputError(
                f"{where} holds cameras of {len(vectors)} images, the scene has {self.poses.num_embeddings}; "
                "continue with the scene and dataset.holdout of the run (CamParameters)"
            )
        saved = parts.get("CameraState", {})
        self._check_settings(saved, where)
        self.poses.load_state(saved, vectors, where)
        if self.poses.kind != LearnablePoses.kind:
            load_optimizer(self.pose_optimizer, saved, where, "CameraState", "optimizer_poses")
        elif "OptimizerCamParameters" in parts:
            part = "OptimizerCamParameters"
            load_optimizer(self.pose_optimizer, parts[part], where, part, "optimizer_cam_state_dict")
        else:
            log.warning("%s holds no OptimizerCamParameters: the poses' optimizer starts anew", where)
        self._load_intrinsics(saved, where)

    def _check_settings(self, saved: Mapping[str, Any], where: str) -> None:
        kinds = text(LearnablePoses.kind, TwistPoses.kind, OrbitPoses.kind)
        schema = {"poses": optional(kinds), "moments": optional(text(*PRECONDITIONERS))}
        check(saved, schema, where, "CameraState")
        kind = saved.get("poses", LearnablePoses.kind)
        if kind != self.poses.kind:
            raise InputError(
                f"{where} holds poses trained as {kind}, the conf says {self.poses.kind} "
                f"(CameraState.poses); {REMEDY}"
            )
        used = PRECONDITIONERS[saved.get("moments", "each")]
        own = "full" if isinstance(self.pose_optimizer, RowAdam) else "diagonal"
        if used != own:
            raise InputError(
                f"{where} holds poses trained with preconditioner = {used}, the conf says {own} "
                f"(CameraState.moments); {REMEDY}"
            )

    def _load_intrinsics(self, saved: Mapping[str, Any], where: str) -> None:
        if self.intrinsics is None:
            if "intrinsics" in saved:
                raise InputError(f"{where} holds trained intrinsics, the conf says they are fixed; {REMEDY}")
        elif not {"intrinsics", "given_intrinsics", "optimizer_intrinsics"} & saved.keys():
            log.warning("%s holds no trained intrinsics: they start from the given ones", where)
        else:
            self.intrinsics.load_state(saved, where)
            load_optimizer(self.optimizers[1], saved, where, "CameraState", "optimizer_intrinsics")
