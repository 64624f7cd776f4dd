"""Reads and checks the values of a checkpoint that a trained run needs.

A file can be readable and still hold text, NaN or tensors of another shape. Every such value is an
`InputError` that names the checkpoint, the value found and the value expected.

B training images, M other views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.checkpoints import schema
from idr.checkpoints.parts import check_intrinsics, pose_vectors
from idr.geometry.cameras import corrected_intrinsics, pose_matrix


@dataclass(frozen=True)
class IntrinsicsCorrections:
    """What training changed in the given intrinsics, see `corrected_intrinsics`; on the CPU.

    Attributes:
        log_focal: (B, 1) logarithm of the focal length's factor, 0 if focal lengths were fixed.
        principal_point: (B, 2) shift in given focal lengths, 0 if it was fixed.
    """

    log_focal: Tensor
    principal_point: Tensor

    def of_training_views(self, given: Tensor) -> Tensor:
        """Returns the trained K, (B, 4, 4), for the given K of the training views, (B, 4, 4)."""
        return corrected_intrinsics(given, self.log_focal, self.principal_point)

    def of_other_views(self, given: Tensor) -> Tensor:
        """Returns the given K of other views, (M, 4, 4), changed by the mean correction."""
        means = (table.mean(dim=0).expand(len(given), -1) for table in (self.log_focal, self.principal_point))
        return corrected_intrinsics(given, *means)


def read_poses(part: Mapping[str, Any], where: str) -> Tensor:
    """Returns the trained poses of ``CamParameters``, (B, 4, 4) camera-to-world on the CPU."""
    return pose_matrix(pose_vectors(part, where).detach().float().cpu())


def read_scale_mat(part: Mapping[str, Any], where: str) -> Tensor | None:
    """Returns the (4, 4) unit-sphere-to-world map of ``TrainerState``, or None if it has none."""
    found = part.get("scale_mat")
    if found is not None:
        schema.check(part, {"scale_mat": schema.tensor(4, 4)}, where, "TrainerState")
    return found


def read_corrections(part: Mapping[str, Any], num_images: int, where: str) -> IntrinsicsCorrections | None:
    """Returns the trained corrections of the intrinsics from ``CameraState``, or None if it has none."""
    if part.get("intrinsics") is None:
        return None
    check_intrinsics(part, where)
    if len(part["given_intrinsics"]) != num_images:
        expected = f"intrinsics of {num_images} images, as many as poses"
        raise schema.misfit(where, "CameraState.given_intrinsics", part["given_intrinsics"], expected)
    tables = []
    for name, width in (("focal", 1), ("principal_point", 2)):
        table = part["intrinsics"].get(name, torch.zeros(1, width))
        tables.append(table.detach().float().cpu().expand(num_images, width))
    return IntrinsicsCorrections(*tables)
