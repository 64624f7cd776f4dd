"""What encodings offer to the networks.

N points, W numbers of an encoded point.
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
        open_levels: How many levels are open, 0 to ``levels``; of a fractional number, the last level is
            partly open. Not part of ``state_dict``, because it follows from the training step.
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

    def spacing(self) -> float | None:
        """Returns the cell size of the finest open level, unit-sphere frame; None without levels.

        While a level opens, the cell size goes from that of the level before to its own.
        """
        return None


class ViewEncoding:
    """An encoding of view directions; it has no parameters.

    Attributes:
        width: Numbers of an encoded direction.
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
    """Returns the weight of a level, from 0 (closed) along a cosine to 1 (open).

    Lin et al. 2021 (BARF), Eq. 14, with levels in place of octaves.

    Args:
        level: Number of the level, from 0 for the coarsest.
        open_levels: How many levels are open.
    """
    return (1 - math.cos(math.pi * min(max(open_levels - level, 0.0), 1.0))) / 2
