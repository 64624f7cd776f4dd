"""The frame of a trained surface: the unit sphere, placed in the world by a scale matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.errors import InputError

SAME_FRAME = 1e-4  # of the radius: far below the accuracy of a surface, far above rounding


def frame_of(dataset: Any) -> Tensor | None:
    """Returns scale_mat_0 of a data set, (4, 4) float64; None for a data set without ``get_scale_mat``."""
    if not hasattr(dataset, "get_scale_mat"):
        return None
    return torch.as_tensor(dataset.get_scale_mat(), dtype=torch.float64)


def check_frame(trained: Tensor | None, present: Tensor | None, where: str) -> None:
    """Refuses a scene whose unit sphere differs from the one in which a surface was trained.

    Cameras and surface would be in different frames. If either scale_mat, (4, 4), is unknown (a checkpoint of
    the published code, a data set without scale matrices), nothing is compared.

    Raises:
        InputError: They differ by more than 1e-4 of the radius.
    """
    if trained is None or present is None:
        return
    was, now = np.array(trained.tolist()), np.array(present.tolist())
    if np.abs(was - now).max() <= SAME_FRAME * np.linalg.norm(was[:3, 0]):
        return
    raise InputError(
        f"{where} was trained with the unit sphere at {_describe(was)}; the scene's cameras.npz now has "
        f"it at {_describe(now)} (was preprocess_cameras.py run since?); put the camera file of the "
        "training back (the first is kept as cameras_backup.npz), or train anew"
    )


def _describe(scale_mat: NDArray[np.float64]) -> str:
    center = ", ".join(f"{value:.6g}" for value in scale_mat[:3, 3])
    return f"center ({center}), radius {np.linalg.norm(scale_mat[:3, 0]):.6g}"
