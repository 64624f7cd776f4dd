"""The block ``loss.components``: no hollows within the object, no floaters around it.

R samples along a side of a grid of spacing h, N samples, B images of the scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from idr.conf.blocks import check_positive
from idr.errors import InputError
from idr.model.patches import Photographs, look_up
from idr.training.terms.step import Cameras, StepRays

BLOCK = 4
"""Samples along a side of the blocks of a grid that are evaluated together, or not at all."""
MARGIN = 2.0
"""A block is far from the surface if |f| at its center is at least this many times its radius."""
REACH = 0.7
"""Parts of the object are one component if the surface f = REACH h connects them: thin parts stay whole."""
MOST_HOLLOW = 64
"""Samples in hollows that enter a step's loss: a ray is traced from each camera to each."""
MOST_FLOATING = 256
"""Samples in floaters that enter a step's loss."""


@dataclass(frozen=True)
class ComponentsConfig:
    """Keys of the block ``loss.components``.

    Attributes:
        weight: Weight of the term.
        begin: Time of the schedule, 0 to 1, when it begins.
        every: Mean number of steps between two searches for components; a search evaluates f on a grid.
        resolution: Samples along a side of this grid, which holds the bounding sphere; a multiple of 4.
    """

    LARGEST: ClassVar[dict[str, int]] = {"resolution": 512, "every": 1_000_000}

    weight: float
    begin: float = 0.3
    every: int = 64
    resolution: int = 160

    def __post_init__(self) -> None:
        check_positive(self, ("weight", "every", "resolution"), "loss.components")
        if self.resolution % BLOCK:
            raise InputError(
                f"loss.components.resolution = {self.resolution}: expected a multiple of {BLOCK} samples"
            )
        if not 0 <= self.begin <= 1:
            raise InputError(
                f"loss.components.begin = {self.begin}: expected a fraction of the schedule, 0 to 1"
            )


class ComponentsTerm:
    """The mean of max(f + h, 0) over samples in hollows, plus that of max(h - f, 0) over samples in floaters.

    A hollow is a connected component of f > 0 that does not reach the bounding sphere. Only the Eikonal term
    acts there, which |f| satisfies too: over many steps f drifts above zero. A hollow that no camera sees is
    filled.

    A floater is a connected component of f < 0 other than the largest. It is removed if no silhouette needs
    it: in every view, each of its rays misses the mask or passes another component.

    The data set has the attributes of `SceneDataset`. The model is the seam of `IDRNetwork`, with
    ``implicit_network.sdf``, ``is_free`` and ``object_bounding_sphere``.
    """

    name = "components_loss"

    def __init__(self, config: ComponentsConfig, dataset: Any, model: Any) -> None:
        self.config, self.model = config, model
        self.masks = Photographs.of(dataset).masks

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, see `idr.training.terms.build.Term`."""
        config, sdf = self.config, self.model.implicit_network.sdf
        zero = rays.points.new_zeros(())
        # Drawn rather than counted, so that a continued run searches at the same steps.
        searches = torch.rand((), generator=generator).item() * config.every < 1
        if time < config.begin or not searches:
            return zero
        offset = torch.rand(3, generator=generator) - 0.5  # of the spacing
        grid = Grid(float(self.model.object_bounding_sphere), config.resolution, offset.to(rays.points))
        values = sample_sdf(sdf, grid)
        hollow = grid.points(self._draw(hollows(values), MOST_HOLLOW, generator))
        if len(hollow) > 0:
            hollow = hollow[~self._are_seen(hollow, cameras.poses[:, :3, 3])]
        floating = self._floating(grid, values, cameras, generator)
        loss = zero
        if len(hollow) > 0:
            loss = loss + torch.relu(sdf(hollow) + grid.spacing).mean()
        if len(floating) > 0:
            loss = loss + torch.relu(grid.spacing - sdf(floating)).mean()
        return config.weight * config.every * loss

    @staticmethod
    def _draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draws up to `count` of (N, 3) rows, without replacement."""
        return rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]

    def _are_seen(self, points: Tensor, centers: Tensor) -> Tensor:
        """Returns which of the (N, 3) points are visible from any of the (B, 3) camera centers, (N,)."""
        shape = (len(centers), len(points), 3)
        origins, targets = centers.unsqueeze(1).expand(shape), points.expand(shape)
        free = self.model.is_free(origins.reshape(-1, 3), targets.reshape(-1, 3), 0.0)
        return free.view(shape[:2]).any(dim=0)

    def _floating(self, grid: Grid, values: Tensor, cameras: Cameras, generator: torch.Generator) -> Tensor:
        """Draws up to `MOST_FLOATING` samples, (N, 3), in components that no silhouette needs."""
        components, largest = object_components(values, REACH * grid.spacing)
        inside = (values < 0) & (components != largest)
        chosen = self._draw(inside.nonzero(), MOST_FLOATING, generator)  # (N, 3) indices
        points, component = grid.points(chosen), components[tuple(chosen.T)]
        needed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        if len(points) > 0:
            for view in range(len(cameras.poses)):
                on_object = self._are_inside_mask(points, view, cameras)
                needed |= on_object & ~grid.are_covered(points, cameras.poses[view, :3, 3], components)
        return points[~torch.isin(component, component[needed])]

    def _are_inside_mask(self, points: Tensor, view: int, cameras: Cameras) -> Tensor:
        """Returns which of the (N, 3) points a view's mask shows as object, (N,)."""
        height, width = self.masks.shape[1:]
        rotation, center = cameras.poses[view, :3, :3], cameras.poses[view, :3, 3]
        projected = (points - center) @ rotation @ cameras.intrinsics[view, :3, :3].T  # (N, 3)
        pixels = torch.nan_to_num((projected[:, :2] / projected[:, 2:]).round(), nan=-1.0)
        size = pixels.new_tensor([width, height])
        in_image = ((pixels >= 0) & (pixels < size)).all(dim=1) & (projected[:, 2] > 0)
        column, row = torch.minimum(pixels.clamp(min=0), size - 1).long().unbind(dim=1)
        return in_image & look_up(self.masks[view], row, column)


@dataclass(frozen=True)
class Grid:
    """A grid around the bounding sphere.

    Attributes:
        radius: Radius of the sphere, half the grid's side.
        resolution: R.
        offset: (3,) shift of the grid, in spacings.
    """

    radius: float
    resolution: int
    offset: Tensor

    @property
    def spacing(self) -> float:
        """Distance h of neighboring samples."""
        return 2 * self.radius / (self.resolution - 1)

    def points(self, indices: Tensor) -> Tensor:
        """Returns the points of (..., 3) indices of samples."""
        return (indices + self.offset) * self.spacing - self.radius

    def nearest(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns the indices of the samples nearest to (..., 3) points, one tensor (...) per axis."""
        indices = ((points + self.radius) / self.spacing - self.offset).round()
        return indices.clamp(0, self.resolution - 1).long().unbind(dim=-1)

    def are_covered(self, points: Tensor, center: Tensor, components: Tensor) -> Tensor:
        """Returns for which samples the ray from a camera passes a component that is not the sample's, (N,).

        Args:
            points: (N, 3) samples.
            center: (3,) camera center.
            components: (R, R, R) numbers of components, 0 for none.
        """
        directions = functional.normalize(points - center, dim=1)
        along = (points * directions).sum(dim=1, keepdim=True)
        steps = torch.arange(-self.radius, self.radius, REACH * self.spacing).to(points)
        # The middle of a ray's chord is its point nearest to the origin.
        chords = (points - along * directions).unsqueeze(1) + steps.view(-1, 1) * directions.unsqueeze(1)
        passed, own = components[self.nearest(chords)], components[self.nearest(points)]
        return ((passed > 0) & (passed != own.unsqueeze(1))).any(dim=1)


@torch.no_grad()
def sample_sdf(sdf: Callable[[Tensor], Tensor], grid: Grid) -> Tensor:
    """Returns f (R, R, R); blocks far from the surface have one value, samples outside the sphere infinity.

    Args:
        sdf: f of (N, 3) points, (N,).
        grid: The grid.
    """
    count, device = grid.resolution // BLOCK, grid.offset.device
    middle = (BLOCK - 1) / 2
    corners = BLOCK * torch.cartesian_prod(*[torch.arange(count, device=device)] * 3)
    values = _in_batches(sdf, grid.points(corners + middle)).view(count, count, count)
    near = values.abs() < MARGIN * 3**0.5 * middle * grid.spacing
    for axis in range(3):
        values, near = (kind.repeat_interleave(BLOCK, dim=axis) for kind in (values, near))
    line = torch.arange(grid.resolution, device=device).unsqueeze(1)
    x, y, z = grid.points(line).square().unbind(dim=1)
    within = x[:, None, None] + y[:, None] + z < grid.radius**2
    near &= within
    values[near] = _in_batches(sdf, grid.points(near.nonzero()))
    values[~within] = torch.inf
    return values


def hollows(values: Tensor) -> Tensor:
    """Returns the (N, 3) indices of samples with f > 0 that no path of such samples joins to the outside."""
    regions = _label(values > 0)
    outside = np.zeros(regions.max() + 1, dtype=bool)
    outside[0] = True  # f <= 0
    outside[regions[torch.isinf(values).cpu().numpy()]] = True
    return torch.from_numpy(np.argwhere(~outside[regions])).to(values.device)


def object_components(values: Tensor, reach: float) -> tuple[Tensor, int]:
    """Returns the components of f < `reach`, (R, R, R) numbers from 1, and the number of the largest.

    The largest is the one with most samples where f < 0.
    """
    components = _label(values < reach)
    sizes = np.bincount(components[(values < 0).cpu().numpy()], minlength=1)
    return torch.from_numpy(components).to(values.device), int(sizes.argmax())


def _label(occupied: Tensor) -> NDArray[np.int32]:
    """Numbers the connected components from 1, with 26 neighbors a sample; 0 is not occupied."""
    numbers, _ = ndimage.label(occupied.cpu().numpy(), structure=np.ones((3, 3, 3)))
    return np.asarray(numbers)


def _in_batches(sdf: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Evaluates f of many points with bounded memory."""
    return torch.cat([sdf(batch) for batch in points.split(1 << 16)])
