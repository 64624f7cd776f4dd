"""What every encoding of points offers to the implicit network.

N points, W numbers of a point's encoding.
"""

from __future__ import annotations

import math
from torch import Tensor, nn


class Encoding(nn.Module):
    """A function (N, 3) -> (N, W) whose first three columns are the point itself.

    Geometric initialization relies on these columns. The function is differentiated twice: the normal of f
    is trained through.

    Attributes:
        width: W.
        starts_near_zero: All but the point is learnt, and starts near zero.
        levels: Levels from coarse to fine that can be opened one by one; 0 for an encoding without any.
        open_levels: How many of them are open, 0 to ``levels``, set from outside; the last one is partly open
            where it is no whole number. It is no part of ``state_dict``: it follows from the step.
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
            (N, W), the points first.
        """
        raise NotImplementedError

    def spacing(self) -> float | None:
        """Returns the side of the finest open cells, unit-sphere frame; None without levels.

        As a level opens, it goes from the side of the level before to its own.
        """
        return None


def level_weight(level: int, open_levels: float) -> float:
    """Returns the weight of a level, from 0 (closed) over a cosine's arc to 1 (open).

    Lin et al. 2021 (BARF), Eq. 14, with levels for octaves.

    Args:
        level: Number of the level, from 0 for the coarsest.
        open_levels: How many are open.
    """
    return (1 - math.cos(math.pi * min(max(open_levels - level, 0.0), 1.0))) / 2
