"""Trained intrinsics of a run, as its checkpoint keeps them.

B training images, M other views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.geometry.cameras import corrected_intrinsics


@dataclass(frozen=True)
class IntrinsicsCorrections:
    """What training changed in the given intrinsics, see `corrected_intrinsics`; on the CPU.

    Attributes:
        log_focal: (B, 1), 0 where focal lengths are fixed.
        principal_point: (B, 2) in given focal lengths, 0 where it is fixed.
    """

    log_focal: Tensor
    principal_point: Tensor

    def of_training_views(self, given: Tensor) -> Tensor:
        """Returns the trained K, (B, 4, 4), of the training views, whose given K are (B, 4, 4)."""
        return corrected_intrinsics(given, self.log_focal, self.principal_point)

    def of_other_views(self, given: Tensor) -> Tensor:
        """Returns K, (M, 4, 4), of views never trained on: the given one with the mean correction."""
        means = (table.mean(dim=0).expand(len(given), -1) for table in (self.log_focal, self.principal_point))
        return corrected_intrinsics(given, *means)


def read_corrections(saved: Mapping[str, Any]) -> IntrinsicsCorrections | None:
    """Reads them from a checkpoint's part ``CameraState``; None where it holds none."""
    if "intrinsics" not in saved:
        return None
    count, tables = len(saved["given_intrinsics"]), saved["intrinsics"]
    focal = tables.get("focal", torch.zeros(1, 1)).float().cpu()
    principal_point = tables.get("principal_point", torch.zeros(1, 2)).float().cpu()
    return IntrinsicsCorrections(focal.expand(count, 1), principal_point.expand(count, 2))


def given_of(dataset: Any) -> Tensor:
    """Returns the given K, (B, 4, 4), of a data set's images, whatever class it has."""
    own = getattr(dataset, "intrinsics", None)
    if own is not None:
        return torch.as_tensor(own).float()
    return torch.stack([dataset[k][1]["intrinsics"] for k in range(len(dataset))]).float()


def focal_line(given: Tensor, trained: Tensor) -> str:
    """Words how training changed K; (B, 4, 4) each."""
    factor = trained[:, 0, 0] / given[:, 0, 0]
    shift = (trained[:, :2, 2] - given[:, :2, 2]).norm(dim=1)
    return (
        f"INTRINSICS: focal length given = {float(given[:, 0, 0].mean()):.2f} ; trained = "
        f"{float(trained[:, 0, 0].mean()):.2f} ; factor mean = {float(factor.mean()):.4f} ; "
        f"principal point moved mean = {float(shift.mean()):.2f} pixels"
    )
