"""Learnable cameras: one row an image (paper, section 3.1: tau).

B images of the scene, b images of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.checkpoints.parts import check_quaternions
from idr.checkpoints.schema import check, tensor
from idr.geometry.cameras import pose_matrix
from idr.geometry.quaternions import rotation_to_quaternion
from idr.geometry.rigid_motions import se3_exp


class LearnablePoses(nn.Embedding):
    """Poses as rows of an embedding with sparse gradients: images outside a batch stay untouched.

    A row is the quaternion (w, x, y, z) of the camera-to-world rotation, which is not stored normalized but
    divided by its norm at each use, inside the graph; then the camera's center in unit-sphere coordinates.

    The initial poses are (B, 7). `frozen` are numbers of images whose poses are constant: they get no
    gradient, so no optimizer changes a bit of them. `kind` is the name in a conf, ``train.cameras.poses``.
    """

    kind = "quaternion"

    def __init__(self, start: Tensor, frozen: Collection[int] = ()) -> None:
        super().__init__(start.shape[0], start.shape[1], sparse=True, _weight=start.clone())
        self.frozen = frozenset(frozen)
        self._is_free = [number not in self.frozen for number in range(self.num_embeddings)]

    def rows(self, indices: Tensor) -> Tensor:
        """Returns those of a batch's images, (b,) indices, that get a gradient."""
        return indices[self._free(indices)] if self.frozen else indices

    def forward(self, indices: Tensor) -> Tensor:
        """Returns the poses of (b,) images in a form that `idr.geometry.cameras.pose_matrix` accepts."""
        return self._look_up(indices)

    def vectors(self) -> Tensor:
        """Returns all poses as (B, 7) quaternions and centers, without gradient."""
        return self.weight.detach()

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of the poses besides `vectors`."""
        return {}

    def load_state(self, saved: Mapping[str, Any], vectors: Tensor, where: str) -> None:  # noqa: ARG002
        """Loads what `state` and `vectors` returned; `InputError` if it does not fit."""
        self.load_state_dict({"weight": vectors})

    def _look_up(self, indices: Tensor) -> Tensor:
        """Returns rows of the table; those of frozen images are constants."""
        if not self.frozen:
            return super().forward(indices)
        constant, free = self.weight.detach()[indices], self._free(indices)
        if not bool(free.any()):
            return constant
        return constant.index_put((free.nonzero().squeeze(1),), super().forward(indices[free]))

    def _free(self, indices: Tensor) -> Tensor:
        return torch.tensor(self._is_free, device=indices.device)[indices]


class TwistPoses(LearnablePoses):
    """Poses as rigid motions of the initial ones, T = T_start Exp(twist); a row is a twist and starts at 0.

    The motion is on the right, so a twist is in the camera's own axes (x right, y down, z forward): to first
    order its rotation turns the camera about its own center and its translation moves that center. On the
    left it would turn the camera about the sphere's center and swing it a long way. The rotation has three
    numbers, all in radians, and no norm that drifts.
    """

    kind = "se3"

    def __init__(self, start: Tensor, frozen: Collection[int] = ()) -> None:
        super().__init__(start.new_zeros(start.shape[0], 6), frozen)
        self.start: Tensor
        self.register_buffer("start", start.clone(), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """Returns the poses of (b,) images, (b, 4, 4) camera-to-world."""
        return self._move(pose_matrix(self.start[indices]), self._look_up(indices))

    def vectors(self) -> Tensor:
        """Returns all poses as (B, 7) quaternions and centers; the initial bits where a row is zero."""
        rows, start = self.weight.detach().double(), self.start.double()
        matrices = self._move(pose_matrix(start), rows)  # (B, 4, 4)
        moved = torch.cat((rotation_to_quaternion(matrices[:, :3, :3]), matrices[:, :3, 3]), dim=1)
        return torch.where((rows == 0).all(dim=1, keepdim=True), self.start, moved.to(self.start.dtype))

    def state(self) -> dict[str, Any]:
        """Returns ``twists``, (B, 6), and the initial poses ``start``, (B, 7)."""
        return {"twists": self.weight.detach(), "start": self.start}

    def load_state(self, saved: Mapping[str, Any], vectors: Tensor, where: str) -> None:
        """Loads twists and initial poses; `vectors` follow from them."""
        schema = {"twists": tensor(len(vectors), 6), "start": tensor(len(vectors), 7)}
        check(saved, schema, where, "CameraState")
        check_quaternions(saved["start"], where, "CameraState.start")
        self.load_state_dict({"weight": saved["twists"]})
        self.start.copy_(saved["start"])

    def _move(self, start: Tensor, rows: Tensor) -> Tensor:
        """Moves poses, (b, 4, 4), by rows, (b, 6)."""
        return start @ se3_exp(rows)


class OrbitPoses(TwistPoses):
    """Poses as a rotation of the camera in place and an orbit about the scene.

    A row is (turn, orbit, distance): a rotation vector in the camera's axes about its own center; a rotation
    of the camera about the sphere's center, in radians about the two axes perpendicular to the line of sight
    to it; and the logarithm of the factor on the distance from the sphere's center. A turn shifts the whole
    image. An orbit keeps the sphere's center at its pixel and changes only the parallax. The translation of
    `TwistPoses` does both: it moves the camera's center to correct an image that is a few pixels off, and
    the center has to come back later.

    `orbit_scale` is a factor on the last three numbers, and so on the optimizer's steps in them.

    Attributes:
        centers_frozen: Whether only the turns get a gradient.
    """

    kind = "orbit"

    def __init__(self, start: Tensor, frozen: Collection[int] = (), orbit_scale: float = 1.0) -> None:
        super().__init__(start, frozen)
        self.orbit_scale = orbit_scale
        self.centers_frozen = False

    def _look_up(self, indices: Tensor) -> Tensor:
        rows = super()._look_up(indices)
        return torch.cat((rows[:, :3], rows[:, 3:].detach()), dim=1) if self.centers_frozen else rows

    def _move(self, start: Tensor, rows: Tensor) -> Tensor:
        turn, (across, down, distance) = rows[:, :3], (rows[:, 3:] * self.orbit_scale).unbind(dim=1)
        rotation, center = start[:, :3, :3], start[:, :3, 3]
        sight = functional.normalize(-center, dim=1)  # (b, 3) towards the sphere's center
        first = functional.normalize(torch.linalg.cross(rotation[:, :, 1], sight), dim=1)
        second = torch.linalg.cross(sight, first)
        axis = across.unsqueeze(1) * first + down.unsqueeze(1) * second
        orbit = se3_exp(torch.cat((torch.zeros_like(axis), axis), dim=1))  # (b, 4, 4), about the origin
        further = torch.cat((rotation, (center * distance.exp().unsqueeze(1)).unsqueeze(2)), dim=2)
        further = torch.cat((further, start[:, 3:]), dim=1)
        return orbit @ further @ se3_exp(torch.cat((torch.zeros_like(turn), turn), dim=1))
