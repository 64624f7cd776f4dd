"""Unit quaternions and rotation matrices.

Components are (w, x, y, z). q and -q are the same rotation; results have w >= 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def quaternion_to_rotation(quaternion: Tensor) -> Tensor:
    """Converts quaternions, (..., 4), of any positive norm to rotation matrices, (..., 3, 3), differentiably.

    The division by the norm is part of the graph, so a trained quaternion need not stay normalized.
    """
    w, x, y, z = functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rotation_to_quaternion(rotation: Tensor) -> Tensor:
    """Converts rotation matrices, (..., 3, 3), to unit quaternions, (..., 4), accurately at any angle.

    Of four equivalent formulas, each with another component as divisor, the one with the largest divisor is
    used (Shepperd 1978), so that a half turn, where w = 0, loses no digits.
    """
    r = rotation
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    # Row k is 4 q_k (w, x, y, z), the quaternion up to a factor.
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    rows = (
        1 + xx + yy + zz, wx, wy, wz,
        wx, 1 + xx - yy - zz, xy, xz,
        wy, xy, 1 - xx + yy - zz, yz,
        wz, xz, yz, 1 - xx - yy + zz,
    )  # fmt: skip
    outer = torch.stack(rows, dim=-1).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)  # (...)
    row = torch.gather(outer, -2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = functional.normalize(row, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
