"""A camera of the library's user."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from idr.errors import InputError


@dataclass(frozen=True)
class Camera:
    """A camera to render through; numpy arrays, tensors or nested lists.

    Attributes:
        intrinsics: (3, 3) or (4, 4) K in pixels; the first pixel's center is at (0, 0).
        pose: (4, 4) camera-to-world with axes x right, y down, z forward, unit-sphere coordinates; or (7,)
            quaternion (w, x, y, z) and center.
        img_res: Height and width.
    """

    intrinsics: ArrayLike
    pose: ArrayLike
    img_res: tuple[int, int]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns K as (4, 4) and the pose, both float32 on a device.

        Raises:
            InputError: K has another shape.
        """
        own = torch.as_tensor(self.intrinsics, dtype=torch.float32)
        if tuple(own.shape) not in {(3, 3), (4, 4)}:
            raise InputError(f"camera intrinsics of shape {tuple(own.shape)}: expected (3, 3) or (4, 4)")
        intrinsics = torch.eye(4)
        intrinsics[:3, :3] = own[:3, :3]
        return intrinsics.to(device), torch.as_tensor(self.pose, dtype=torch.float32).to(device)
