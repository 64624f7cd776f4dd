"""Where a model is wrong: for each view a coarse map of the residuals of the rays that were trained.

B views, H, W image height and width, a cell is a square of pixels, R rays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LEAST = 1e-3
"""Least value of a cell: none is ever without weight."""
UNSEEN = 1.0
"""Residual of a cell none of whose rays were trained: the largest, so that it is looked at soon."""
GRAIN = 1024
"""Residuals are rounded to this part of one. Sums of whole numbers are the same in every order, so that they
depend neither on the number of threads nor, but for rare ties, on the number of processes."""


class ErrorMaps:
    """One map for each view; a cell's value goes part of the way to the mean residual of each new step.

    Args:
        num_views: B.
        size: H and W of the images as they are.
        cell: Pixels along a cell's side.
        rate: How much of the way, above 0 to 1.

    Attributes:
        maps: (B, rows, columns) float32 residuals, `LEAST` to 1, on the host.
    """

    def __init__(self, num_views: int, size: tuple[int, int], cell: int, rate: float) -> None:
        self.cell, self.rate = cell, rate
        rows, columns = (-(-side // cell) for side in size)
        self.maps = torch.full((num_views, rows, columns), UNSEEN)

    def cells_of(self, view: int, pixels: Tensor, width: int, factor: int) -> Tensor:
        """Returns in which cells pixels lie, as places in the flattened maps.

        Args:
            view: Number of the view.
            pixels: (P,) pixel numbers of the image reduced by `factor`.
            width: Its width.
            factor: Divides the cell's side.
        """
        side = self.cell // factor
        _, rows, columns = self.maps.shape
        return view * rows * columns + pixels // width // side * columns + pixels % width // side

    def take(self, cells: Tensor, residuals: Tensor) -> None:
        """Takes in the residuals of a step.

        Args:
            cells: Places from `cells_of`, R in all.
            residuals: (R,) 0 to 1, on the host.
        """
        touched, group = cells.reshape(-1).unique(return_inverse=True)
        whole = (residuals.clamp(0, 1) * GRAIN).round().double()
        means = torch.bincount(group, whole) / torch.bincount(group) / GRAIN
        flat = self.maps.view(-1)
        flat[touched] += self.rate * (means.float().clamp(min=LEAST) - flat[touched])

    def restore(self, saved: Tensor | None, where: str) -> None:
        """Takes over saved maps; those of other views or cells are of no use, and a warning says so.

        Args:
            saved: What `maps` was; None where the checkpoint has none.
            where: The checkpoint's name, for messages.
        """
        if saved is None or saved.shape != self.maps.shape:
            there = "no" if saved is None else "other views' or cells'"
            log.warning("%s holds %s error maps: those of train.sampler start anew", where, there)
        else:
            self.maps.copy_(saved)


def residuals_of(outputs: Mapping[str, Tensor], rgb: Tensor, mask_error: float) -> Tensor:
    """Returns how wrong each ray is.

    Args:
        outputs: What the model returned for R rays.
        rgb: The photographs' colors in [-1, 1], (B, P, 3).
        mask_error: Residual of a ray that hits outside the mask or misses inside.

    Returns:
        (R,): where the ray hits inside the mask the mean absolute difference of colors, in [0, 1] units.
    """
    hit, inside = outputs["network_object_mask"], outputs["object_mask"]
    color = (outputs["rgb_values"].detach() - rgb.reshape(-1, 3)).abs().mean(dim=1) / 2
    elsewhere = torch.where(hit == inside, torch.zeros_like(color), torch.full_like(color, mask_error))
    return torch.where(hit & inside, color, elsewhere)
