"""Interfaces of the networks' input encodings.

N points, W width of the encoding.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class Encoding(nn.Module):
    """An encoding of points (N, 3) -> (N, W) whose first three columns are the point itself.

    Geometric initialization relies on these columns. The function must be differentiable twice, because
    training differentiates through the normal of f.

    Attributes:
        width: W.
        starts_near_zero: All columns but the point are learned and start near zero.
        levels: Number of levels, coarse to fine, that can be opened one by one; 0 for an encoding without
            levels.
        open_levels: Number of open levels, 0 to ``levels``; if fractional, the last level is partly open.
            Not part of ``state_dict``, because it follows from the training step.
    """

    width: int
    levels: int = 0
    starts_near_zero: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.open_levels = 0.0

    def set_open_levels(self, levels: float) -> None:
        """Opens this many of the levels and closes the others."""
        self.open_levels = float(levels)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes points.

        Args:
            x: (N, 3), unit-sphere frame.

        Returns:
            (N, W), the point itself first.
        """
        raise NotImplementedError

    def check_device(self) -> None:
        """Raises `InputError` if the encoding cannot compute where its parameters are."""

    def spacing(self) -> float | None:
        """Returns the cell size of the finest open level, unit-sphere frame; None without levels.

        While a level opens, the cell size changes from that of the previous level to its own.
        """
        return None


class ViewEncoding:
    """An encoding of view directions; it has no parameters.

    Attributes:
        width: Width of an encoded direction.
        needs_normals: Whether the encoding depends on the normal.
    """

    width: int
    needs_normals: bool = False

    def __call__(self, view_dirs: Tensor, normals: Tensor) -> Tensor:
        """Encodes directions.

        Args:
            view_dirs: (N, 3) unit vectors from the point to the camera.
            normals: (N, 3) of any length.

        Returns:
            (N, width).
        """
        raise NotImplementedError


def level_weight(level: int, open_levels: float) -> float:
    """Returns the weight of a level, which rises from 0 (closed) to 1 (open) along a cosine.

    Lin et al. 2021 (BARF), Eq. 14, with levels in place of octaves.

    Args:
        level: Index of the level, 0 for the coarsest.
        open_levels: Number of open levels.
    """
    return (1 - math.cos(math.pi * min(max(open_levels - level, 0.0), 1.0))) / 2
