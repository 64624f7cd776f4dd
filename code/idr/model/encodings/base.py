"""What every encoding of points offers to the implicit network.

N points, W numbers of a point's encoding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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


OPEN_LEVELS = {"open_levels": "implicit_network", "open_color_levels": "rendering_network"}
"""What a checkpoint calls the open levels of the encoding of points in each of a model's networks."""


def find_encoding(model: Any, network: str = "implicit_network") -> Encoding | None:
    """Returns the encoding of points of one of a model's networks, or None where it has none."""
    encoding = getattr(getattr(model, network, None), "encoding", None)
    return encoding if isinstance(encoding, Encoding) else None


def restore_open_levels(model: Any, saved: Mapping[str, Any]) -> None:
    """Opens the levels that were open in training; those that were never trained stay closed.

    Args:
        model: Its encodings are set.
        saved: May hold the keys of `OPEN_LEVELS`; what it lacks stays.
    """
    for key, network in OPEN_LEVELS.items():
        encoding = find_encoding(model, network)
        if encoding is not None and key in saved:
            encoding.open_levels = float(saved[key])
