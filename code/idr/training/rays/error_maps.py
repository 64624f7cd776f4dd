"""Error maps: for each view a coarse map of the residuals of the rays that were trained.

B views, H, W image height and width, R rays; a cell is a square of pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from idr.checkpoints.schema import check, tensor

log = logging.getLogger(__name__)

MIN_RESIDUAL = 1e-3
"""Smallest value of a cell, so that each keeps a chance to be drawn."""
UNSEEN = 1.0
"""Value of a cell before any of its rays was trained: the largest, so that it is drawn soon."""
GRAIN = 1024
"""Residuals are rounded to 1 / GRAIN. Sums of integers do not depend on their order, so maps depend neither
on the number of threads nor, but for rare ties, on the number of processes."""


class ErrorMaps:
    """One map for each view, a running mean of residuals.

    Args:
        num_views: B.
        size: H and W at full resolution.
        cell: Pixels along a cell's side.
        rate: Weight of a step's mean residual in a cell's running mean, above 0 to 1.

    Attributes:
        maps: (B, rows, columns) float32 residuals, `MIN_RESIDUAL` to 1, on the host.
    """

    def __init__(self, num_views: int, size: tuple[int, int], cell: int, rate: float) -> None:
        self.cell, self.rate = cell, rate
        rows, columns = (-(-side // cell) for side in size)
        self.maps = torch.full((num_views, rows, columns), UNSEEN)

    def cells_of(self, view: int, pixels: Tensor, width: int, factor: int) -> Tensor:
        """Returns the cells of pixels, as indices into the flattened maps.

        Args:
            view: Number of the view.
            pixels: (P,) pixel numbers of the image reduced by `factor`.
            width: Width of that image.
            factor: Reduction; a cell has `cell` / `factor` reduced pixels along its side.
        """
        side = self.cell // factor
        _, rows, columns = self.maps.shape
        return view * rows * columns + pixels // width // side * columns + pixels % width // side

    def update(self, cells: Tensor, residuals: Tensor) -> None:
        """Adds the residuals of a step, (R,) from 0 to 1 on the host, in as many cells from `cells_of`."""
        touched, group = cells.reshape(-1).unique(return_inverse=True)
        whole = (residuals.clamp(0, 1) * GRAIN).round().double()
        means = torch.bincount(group, whole) / torch.bincount(group) / GRAIN
        flat = self.maps.view(-1)
        flat[touched] += self.rate * (means.float().clamp(min=MIN_RESIDUAL) - flat[touched])

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"error_maps": self.maps}

    def load_state(self, saved: Mapping[str, Any], where: str) -> None:
        """Loads what `state` returned; maps that are missing or of other views or cells start anew.

        `saved` may have other keys; `where` names the checkpoint in messages.

        Raises:
            InputError: The saved maps are no residuals.
        """
        if "error_maps" in saved:
            check(saved, {"error_maps": tensor(None, None, None, least=0, most=1)}, where, "RecipeState")
        maps = saved.get("error_maps")
        if maps is None or maps.shape != self.maps.shape:
            found = "no" if maps is None else "other views' or cells'"
            log.warning("%s holds %s error maps: those of train.sampler start anew", where, found)
        else:
            self.maps.copy_(maps)


def residuals_of(outputs: Mapping[str, Tensor], rgb: Tensor, mask_error: float) -> Tensor:
    """Returns the residual of each ray.

    Args:
        outputs: What the model returned for R rays.
        rgb: (B, P, 3) the photographs' colors in [-1, 1].
        mask_error: Residual of a ray that hits outside the mask or misses inside it.

    Returns:
        (R,): for rays that hit inside the mask, the mean absolute difference of colors in [0, 1] units.
    """
    hit, inside = outputs["network_object_mask"], outputs["object_mask"]
    color = (outputs["rgb_values"].detach() - rgb.reshape(-1, 3)).abs().mean(dim=1) / 2
    elsewhere = torch.where(hit == inside, torch.zeros_like(color), torch.full_like(color, mask_error))
    return torch.where(hit & inside, color, elsewhere)
