"""What a trained run takes from the parts of its checkpoint, each value checked.

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
from idr.checkpoints.parts import check_quaternions
from idr.geometry.cameras import pose_matrix
from idr.runs.intrinsics import IntrinsicsCorrections


def read_epoch(part: Mapping[str, Any], where: str) -> int:
    """Returns the number of epochs done from ``ModelParameters``; `where` names the checkpoint."""
    schema.check(part, {"epoch": schema.whole()}, where, "ModelParameters")
    return int(part["epoch"])


def read_poses(part: Mapping[str, Any], where: str) -> Tensor:
    """Returns the trained poses of ``CamParameters``, (B, 4, 4) camera-to-world on the CPU."""
    table = schema.table({"weight": schema.tensor(None, 7)})
    schema.check(part, {"pose_vecs_state_dict": table}, where, "CamParameters")
    vectors = part["pose_vecs_state_dict"]["weight"]
    check_quaternions(vectors, where, "CamParameters.pose_vecs_state_dict.weight")
    return pose_matrix(vectors.detach().float().cpu())


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
    widths = {"focal": 1, "principal_point": 2}
    tables = schema.table({name: schema.optional(schema.tensor(None, w)) for name, w in widths.items()})
    content = {"intrinsics": tables, "given_intrinsics": schema.tensor(num_images, 4, 4)}
    schema.check(part, content, where, "CameraState")
    values = []
    for name, width in widths.items():
        table = part["intrinsics"].get(name, torch.zeros(1, width))
        if len(table) not in (1, num_images):
            expected = f"1 row, or one for each of {num_images} images"
            raise schema.misfit(where, f"CameraState.intrinsics.{name}", table, expected)
        values.append(table.detach().float().cpu().expand(num_images, width))
    return IntrinsicsCorrections(*values)
