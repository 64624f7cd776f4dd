"""A camera, and the scene that a run was trained on: its data set with the given cameras, single images.

B images, H, W image height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pyhocon import ConfigTree
from torch import Tensor

from idr.conf.build import build_dataset
from idr.errors import InputError


@dataclass(frozen=True)
class Camera:
    """A camera of the library's user to render through; numpy arrays, tensors or nested lists.

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


@dataclass(frozen=True)
class View:
    """One image of a scene with its given intrinsics. It has no pose: a run may have trained it.

    Attributes:
        number: Position of the image in its folder.
        intrinsics: (4, 4) K.
        photo: (H, W, 3) colors in [0, 1].
        mask: (H, W) bool, True on the object.
    """

    number: int
    intrinsics: Tensor
    photo: Tensor
    mask: Tensor


def open_dataset(conf: ConfigTree, scan_id: int | None, data_root: str | None, split: str = "train") -> Any:
    """Opens the data set that a conf names, with the given cameras and whole images; see `build_dataset`."""
    dataset = build_dataset(conf, False, scan_id, data_root, split)
    dataset.change_sampling_idx(-1)
    return dataset


def image_numbers(dataset: Any) -> list[int]:
    """Returns the position in the scene's image folder of each image of a data set."""
    return [int(number) for number in getattr(dataset, "indices", range(len(dataset)))]


def read_view(dataset: Any, index: int) -> View:
    """Returns image `index` of a data set whose items are whole images, on the CPU."""
    _, sample, truth = dataset[index]
    height, width = (int(size) for size in dataset.img_res)
    return View(
        number=image_numbers(dataset)[index],
        intrinsics=sample["intrinsics"],
        photo=((truth["rgb"] + 1.0) / 2.0).view(height, width, 3),
        mask=sample["object_mask"].view(height, width).bool(),
    )


def given_intrinsics(dataset: Any) -> Tensor:
    """Returns the given K, (B, 4, 4), of any class of data set."""
    own = getattr(dataset, "intrinsics", None)
    if own is not None:
        return torch.as_tensor(own).float()
    return torch.stack([dataset[k][1]["intrinsics"] for k in range(len(dataset))]).float()


def given_world_poses(dataset: Any) -> NDArray[np.float64]:
    """Returns the given camera-to-world poses, (B, 4, 4), in world coordinates."""
    return np.asarray(dataset.get_gt_pose(scaled=False), dtype=np.float64)
