"""Learnable cameras: one row an image (paper, section 3.1: tau).

B images of the scene, b images of a batch.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from idr.geometry.cameras import pose_matrix
from idr.geometry.quaternions import rotation_to_quaternion
from idr.geometry.rigid_motions import se3_exp


class LearnablePoses(nn.Embedding):
    """Poses as rows of an embedding with sparse gradients: images outside a batch stay untouched.

    A row is the quaternion (w, x, y, z) of the camera-to-world rotation, stored as it is and divided by its
    norm at each use, inside the graph; then the camera's centre in unit-sphere coordinates.

    Args:
        start: (B, 7) where the poses start.
        frozen: Numbers of the images whose poses stay where they start, to the last bit: they get no
            gradient, so that no optimiser touches them.

    Attributes:
        kind: Name in a conf, ``train.cameras.poses``.
    """

    kind = "quaternion"

    def __init__(self, start: Tensor, frozen: Collection[int] = ()) -> None:
        super().__init__(start.shape[0], start.shape[1], sparse=True, _weight=start.clone())
        self._freeze(frozen)

    def _freeze(self, frozen: Collection[int]) -> None:
        self.frozen = frozenset(frozen)
        self._is_free = [number not in self.frozen for number in range(self.num_embeddings)]

    def rows(self, indices: Tensor) -> Tensor:
        """Returns the images of a batch, (b,) indices, that get a gradient."""
        return indices[self._free(indices)] if self.frozen else indices

    def forward(self, indices: Tensor) -> Tensor:
        """Returns the poses of (b,) images as `idr.geometry.cameras.pose_matrix` takes them."""
        return self._looked_up(indices)

    def vectors(self) -> Tensor:
        """Returns all poses as (B, 7) quaternions and centres, without gradient."""
        return self.weight.detach()

    def _looked_up(self, indices: Tensor) -> Tensor:
        """Rows of the table; those of frozen images are constants."""
        if not self.frozen:
            return super().forward(indices)
        constant, free = self.weight.detach()[indices], self._free(indices)
        if not bool(free.any()):
            return constant
        return constant.index_put((free.nonzero().squeeze(1),), super().forward(indices[free]))

    def _free(self, indices: Tensor) -> Tensor:
        return torch.tensor(self._is_free, device=indices.device)[indices]


class TwistPoses(LearnablePoses):
    """Poses as rigid motions from where they start, T = T_start Exp(twist), twists as rows that start at 0.

    The motion stands on the right, so that a twist is told in the camera's own axes (x right, y down, z
    forward): to first order its rotation turns the camera about its own centre and its shift moves that
    centre. On the left it would turn the camera about the sphere's centre, which swings it a long way.
    Rotation has three numbers, no norm that drifts, and the same unit, radians, in each of them.

    Args:
        start: (B, 7) where the poses start, quaternion and centre.
        frozen: As for `LearnablePoses`.
    """

    kind = "se3"

    def __init__(self, start: Tensor, frozen: Collection[int] = ()) -> None:
        super().__init__(start.new_zeros(start.shape[0], 6), frozen)
        self.start: Tensor
        self.register_buffer("start", start.clone(), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """Returns the poses of (b,) images, (b, 4, 4) camera-to-world."""
        return pose_matrix(self.start[indices]) @ se3_exp(self._looked_up(indices))

    def vectors(self) -> Tensor:
        """Returns all poses as (B, 7) quaternions and centres; the very start where a twist is zero."""
        twist, start = self.weight.detach().double(), self.start.double()
        matrices = pose_matrix(start) @ se3_exp(twist)  # (B, 4, 4)
        moved = torch.cat((rotation_to_quaternion(matrices[:, :3, :3]), matrices[:, :3, 3]), dim=1)
        return torch.where((twist == 0).all(dim=1, keepdim=True), self.start, moved.to(self.start.dtype))
