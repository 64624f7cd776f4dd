"""The block ``loss.components``: which hollows are filled, which floaters are removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from tests.cli.bad_input import look_at_origin
from torch import Tensor, nn

from idr.geometry.cameras import pixel_rays
from idr.training.terms.components import (
    ComponentsConfig,
    ComponentsTerm,
    Grid,
    hollows,
    object_components,
    sample_sdf,
)
from idr.training.terms.step import Cameras, StepRays

SIZE = 40
POSITIONS = [(3, 0, 0), (-3, 0.1, 0), (0, 3, 0.1), (0.1, -3, 0), (0, 0.1, 3), (0, 0, -3)]
INTRINSICS = torch.tensor([[60.0, 0, 19.5, 0], [0, 60, 19.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
CAMERAS = Cameras(
    INTRINSICS.repeat(len(POSITIONS), 1, 1),
    torch.stack([torch.from_numpy(look_at_origin(position)).float() for position in POSITIONS]),
)
BODY, FLOATER = (0.0, 0.0, 0.0, 0.4), (0.62, 0.05, -0.04, 0.08)
"""Balls: center and radius."""
NO_RAYS = StepRays(*[torch.zeros(0, 3)] * 2, *[torch.zeros(0, dtype=torch.bool)] * 5)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Model(nn.Module):
    """A model whose implicit network is a function, plus an offset with a gradient."""

    object_bounding_sphere = 1.0

    def __init__(self, function: Callable[[Tensor], Tensor], seen: bool = False) -> None:
        super().__init__()
        self.function, self.seen, self.implicit_network = function, seen, self
        self.offset = nn.Parameter(torch.zeros(()))

    def sdf(self, x: Tensor) -> Tensor:
        return self.function(x) + self.offset

    def is_free(self, origins: Tensor, targets: Tensor, margin: float) -> Tensor:
        assert origins.shape == targets.shape and margin == 0
        return torch.full((len(origins),), self.seen)


class Silhouettes:
    """Masks that show balls, by the distances of pixels' rays to their centers."""

    img_res = (SIZE, SIZE)

    def __init__(self, balls: Sequence[tuple[float, ...]]) -> None:
        rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        uv = torch.stack((columns, rows), dim=-1).view(1, -1, 2).float().expand(len(POSITIONS), -1, -1)
        directions, centers = pixel_rays(uv, CAMERAS.poses, CAMERAS.intrinsics)
        self.masks = torch.zeros(uv.shape[:2], dtype=torch.bool)
        for *center, radius in balls:
            to = torch.tensor(center) - centers.unsqueeze(1)
            self.masks |= torch.linalg.cross(to.expand_as(directions), directions).norm(dim=-1) < radius
        self.images = torch.zeros(*self.masks.shape, 3, dtype=torch.uint8)


def union(balls: Sequence[tuple[float, ...]]) -> Callable[[Tensor], Tensor]:
    """Returns the signed distance of balls that do not overlap."""
    return lambda x: torch.stack([(x - x.new_tensor(c)).norm(dim=1) - r for *c, r in balls]).amin(dim=0)


def hollow_ball(channel: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Returns f of a ball of radius 0.6 around a hollow of radius 0.2, with a channel to the outside."""

    def sdf(x: Tensor) -> Tensor:
        f = torch.maximum(x.norm(dim=1) - 0.6, 0.2 - x.norm(dim=1))
        along = torch.where(x[:, 2] > 0, x[:, :2].norm(dim=1), torch.inf)
        return torch.maximum(f, channel - along) if channel else f

    return sdf


def loss(
    model: Model, shown: Sequence[tuple[float, ...]] = (BODY,), time: float = 0.6, cameras: Cameras = CAMERAS
) -> Tensor:
    config = ComponentsConfig(weight=0.5, begin=0.4, every=1, resolution=40)
    return ComponentsTerm(config, Silhouettes(shown), model)(NO_RAYS, cameras, time, generator())


def all_points(grid: Grid) -> Tensor:
    return grid.points(torch.cartesian_prod(*[torch.arange(grid.resolution)] * 3))


def test_samples_near_the_surface_are_exact_and_signs_are_right_everywhere() -> None:
    f, grid = union([BODY, FLOATER]), Grid(1.0, 48, torch.tensor([0.3, -0.4, 0.1]))
    evaluated = []
    values = sample_sdf(lambda x: (evaluated.append(len(x)), f(x))[1], grid).flatten()
    points = all_points(grid)
    within, exact = points.norm(dim=1) < 1, f(points)
    assert torch.isinf(values[~within]).all() and torch.isfinite(values[within]).all()
    assert ((values < 0) == (exact < 0))[within].all()
    near = within & (exact.abs() < grid.spacing)
    assert near.sum() > 2000 and torch.allclose(values[near], exact[near], atol=1e-6)
    assert sum(evaluated) < 0.3 * within.sum()


def test_nearest_samples_are_the_inverse_of_points() -> None:
    grid = Grid(1.2, 8, torch.tensor([0.3, -0.4, 0.1]))
    indices = torch.cartesian_prod(*[torch.arange(8)] * 3)
    moved = grid.points(indices) + 0.4 * grid.spacing
    assert torch.equal(torch.stack(grid.nearest(moved), dim=1), indices)


def test_samples_of_hollows_are_those_of_the_hollow() -> None:
    grid = Grid(1.0, 48, torch.tensor([0.2, -0.5, 0.3]))
    found = grid.points(hollows(sample_sdf(hollow_ball(), grid)))
    assert len(found) == (all_points(grid).norm(dim=1) < 0.2).sum() > 200
    assert found.norm(dim=1).max() < 0.2
    assert len(hollows(sample_sdf(hollow_ball(channel=0.05), grid))) == 0


def test_hollows_that_no_camera_sees_are_filled() -> None:
    model = Model(hollow_ball())
    value = loss(model)
    value.backward()
    # f + h is 0.2 - |x| + h with the spacing h = 2 / 39; the mean of |x| in a ball is 3/4 of its radius.
    assert value.item() == pytest.approx(0.5 * (0.2 + 2 / 39 - 0.75 * 0.2), rel=0.15)
    assert model.offset.grad is not None and model.offset.grad.item() == pytest.approx(0.5)
    for kept in (Model(hollow_ball(), seen=True), Model(hollow_ball(channel=0.1))):
        assert loss(kept).item() == 0
    assert loss(model, time=0.3).item() == 0


def test_floaters_that_no_silhouette_needs_are_removed() -> None:
    model = Model(union([BODY, FLOATER]))
    value = loss(model, shown=[BODY])
    value.backward()
    # h - f is h + 0.08 - |x| in the floater's frame.
    assert value.item() == pytest.approx(0.5 * (2 / 39 + 0.08 - 0.75 * 0.08), rel=0.25)
    assert model.offset.grad is not None and model.offset.grad.item() == pytest.approx(-0.5)


def test_parts_that_a_silhouette_needs_stay() -> None:
    model = Model(union([BODY, FLOATER]))
    assert loss(model, shown=[BODY, FLOATER]).item() == 0
    # The first two cameras see it in front of the body, or not at all; the others see it beside the body.
    views = lambda *chosen: Cameras(CAMERAS.intrinsics[[*chosen]], CAMERAS.poses[[*chosen]])  # noqa: E731
    assert loss(model, shown=[BODY, FLOATER], cameras=views(0, 1)).item() > 0


def test_a_view_that_cuts_a_part_off_does_not_need_it() -> None:
    away = Cameras(CAMERAS.intrinsics.clone(), CAMERAS.poses)
    away.intrinsics[:, :2, 2] += 1000
    model = Model(union([BODY, FLOATER]))
    assert loss(model, shown=[BODY, FLOATER], cameras=away).item() > 0


def test_a_single_component_is_no_floater_and_nothing_has_none() -> None:
    assert loss(Model(union([BODY])), shown=[]).item() == 0
    assert loss(Model(lambda x: 1 + 0 * x[:, 0]), shown=[BODY]).item() == 0


def test_parts_thinner_than_the_grid_are_one_component() -> None:
    """A rod of 0.6 spacings thickness crosses the grid at an angle."""
    axis = torch.nn.functional.normalize(torch.tensor([1.0, 0.37, 0.21]), dim=0)

    def rod(x: Tensor) -> Tensor:
        along = (x @ axis).clamp(-0.7, 0.7)
        return (x - along.unsqueeze(1) * axis).norm(dim=1) - 0.3 * 2 / 39

    values = sample_sdf(rod, Grid(1.0, 40, torch.full((3,), 0.2)))
    pieces = object_components(values, 0.0)[0]
    whole, largest = object_components(values, 0.7 * 2 / 39)
    assert pieces.max() > 1
    assert largest == 1 and set(np.unique(whole[values < 0])) == {1}


def test_components_are_searched_now_and_then() -> None:
    config = ComponentsConfig(weight=1.0, every=5, resolution=12)
    term = ComponentsTerm(config, Silhouettes([BODY]), Model(hollow_ball()))
    values = [term(NO_RAYS, CAMERAS, 0.5, torch.Generator().manual_seed(seed)).item() for seed in range(300)]
    assert 40 <= np.count_nonzero(values) <= 80
