"""What every encoding of points offers to the implicit network.

N points, W numbers of a point's encoding.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class Encoding(nn.Module):
    """A function (N, 3) -> (N, W) whose first three columns are the point itself.

    Geometric initialisation relies on these columns. The function is differentiated twice: the normal of f
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

    def forward(self, x: Tensor) -> Tensor:
        """Encodes points.

        Args:
            x: (N, 3), unit-sphere frame.

        Returns:
            (N, W), the points first.
        """
        raise NotImplementedError

    def spacing(self) -> float | None:
        """Returns the side of the finest open cells, unit-sphere frame; None without levels."""
        return None


def level_weight(level: int, open_levels: float) -> float:
    """Returns the weight of a level, from 0 (closed) over a cosine's arc to 1 (open).

    Lin et al. 2021 (BARF), Eq. 14, with levels for octaves.

    Args:
        level: Number of the level, from 0 for the coarsest.
        open_levels: How many are open.
    """
    return (1 - math.cos(math.pi * min(max(open_levels - level, 0.0), 1.0))) / 2


def find_encoding(model: Any) -> Encoding | None:
    """Returns the encoding of points of a model's implicit network, or None where a user's model has none."""
    encoding = getattr(getattr(model, "implicit_network", None), "encoding", None)
    return encoding if isinstance(encoding, Encoding) else None
