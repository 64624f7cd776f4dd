"""The block ``loss.hollows``: the inside of the object stays solid.

N samples of a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from idr.conf.blocks import check_positive
from idr.errors import InputError
from idr.training.terms.step import Cameras, StepRays

MOST_POINTS = 64
"""Enclosed samples that enter a step's loss: a ray is traced from each camera to each."""


@dataclass(frozen=True)
class HollowsConfig:
    """Keys of the block ``loss.hollows``.

    Attributes:
        weight: Weight of the term.
        begin: Time of the schedule, 0 to 1, when it begins.
        every: Mean number of steps between two searches for hollows; a search evaluates f on a grid.
        resolution: Samples along a side of this grid, which holds the bounding sphere.
    """

    LARGEST: ClassVar[dict[str, int]] = {"resolution": 256, "every": 1_000_000}

    weight: float
    begin: float = 0.3
    every: int = 32
    resolution: int = 96

    def __post_init__(self) -> None:
        check_positive(self, ("weight", "every"), "loss.hollows")
        if self.resolution < 8:
            raise InputError(f"loss.hollows.resolution = {self.resolution}: expected 8 samples or more")
        if not 0 <= self.begin <= 1:
            raise InputError(
                f"loss.hollows.begin = {self.begin}: expected a fraction of the schedule, 0 to 1"
            )


class HollowsTerm:
    """The mean of max(f + h, 0) at samples of a grid of spacing h that lie in enclosed hollows.

    Photographs and masks constrain f where rays can get. Inside the object only the Eikonal term acts, which
    |f| fulfills too: over many steps f drifts above zero. A hollow that no camera sees is filled.

    The model is the seam of `IDRNetwork`, with ``implicit_network.sdf``, ``is_free`` and
    ``object_bounding_sphere``.
    """

    name = "hollows_loss"

    def __init__(self, config: HollowsConfig, model: Any) -> None:
        self.config, self.model = config, model

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, see `idr.training.terms.build.Term`."""
        config, sdf = self.config, self.model.implicit_network.sdf
        # Drawn rather than counted, so that a continued run searches at the same steps.
        searches = torch.rand((), generator=generator).item() * config.every < 1
        if time < config.begin or not searches:
            return rays.points.new_zeros(())
        radius = float(self.model.object_bounding_sphere)
        spacing = 2 * radius / (config.resolution - 1)
        offset = spacing * (torch.rand(3, generator=generator) - 0.5)
        points = enclosed_points(sdf, radius, config.resolution, offset.to(rays.points))
        points = points[torch.randperm(len(points), generator=generator)[:MOST_POINTS].to(points.device)]
        if len(points) > 0:
            points = points[~self._are_seen(points, cameras.poses[:, :3, 3])]
        if len(points) == 0:
            return rays.points.new_zeros(())
        return config.weight * config.every * torch.relu(sdf(points) + spacing).mean()

    def _are_seen(self, points: Tensor, centers: Tensor) -> Tensor:
        """Returns which of the (N, 3) points are visible from any of the (B, 3) camera centers, (N,)."""
        shape = (len(centers), len(points), 3)
        origins, targets = centers.unsqueeze(1).expand(shape), points.expand(shape)
        free = self.model.is_free(origins.reshape(-1, 3), targets.reshape(-1, 3), 0.0)
        return free.view(shape[:2]).any(dim=0)


@torch.no_grad()
def enclosed_points(
    sdf: Callable[[Tensor], Tensor], radius: float, resolution: int, offset: Tensor
) -> Tensor:
    """Finds the samples of a grid where f is positive that no path of such samples joins to the outside.

    Args:
        sdf: f of (N, 3) points, (N,).
        radius: Radius of the sphere around the object; the space around it is open.
        resolution: Samples along a side of the sphere's bounding cube.
        offset: (3,) shift of the grid.

    Returns:
        (M, 3) samples, on the offset's device.
    """
    axis = torch.linspace(-radius, radius, resolution, device=offset.device, dtype=offset.dtype)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1) + offset
    within = grid.norm(dim=-1) < radius
    is_open = torch.ones_like(within)
    is_open[within] = torch.cat([sdf(block) > 0 for block in grid[within].split(1 << 16)])
    regions, _ = ndimage.label(is_open.cpu().numpy(), structure=np.ones((3, 3, 3)))
    outside = np.unique(regions[~within.cpu().numpy()])
    enclosed = (regions > 0) & ~np.isin(regions, outside)
    return grid[torch.from_numpy(enclosed).to(grid.device)]
