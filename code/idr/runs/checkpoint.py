"""Reads and checks the values of a checkpoint that a trained run needs.

A file can be readable and still hold text, NaN or tensors of another shape. Every such value is an
`InputError` that names the checkpoint, the value found and the value expected.

B training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from idr.checkpoints import schema
from idr.checkpoints.parts import check_intrinsics, pose_vectors
from idr.geometry.cameras import pose_matrix
from idr.runs.intrinsics import IntrinsicsCorrections


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
    """Returns the trained corrections of the intrinsics from ``CameraState``, or None if it has none.

    Args:
        part: ``CameraState``.
        num_images: B.
        where: The checkpoint, for messages.
    """
    if part.get("intrinsics") is None:
        return None
    check_intrinsics(part, where)
    if len(part["given_intrinsics"]) != num_images:
        expected = f"intrinsics of {num_images} images, as many as poses"
        raise schema.misfit(where, "CameraState.given_intrinsics", part["given_intrinsics"], expected)
    tables = [part["intrinsics"].get(name) for name in ("focal", "principal_point")]
    focal, principal_point = (
        torch.zeros(num_images, width)
        if table is None
        else table.detach().float().cpu().expand(num_images, width)
        for table, width in zip(tables, (1, 2), strict=True)
    )
    return IntrinsicsCorrections(focal, principal_point)
