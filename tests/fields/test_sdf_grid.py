"""The sparse grid of f: its nodes, its error bound, surfaces that it must not exclude, its cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from idr.fields.sdf_grid import GRID, SdfGrid, build_sdf_grid, lipschitz_bound
from tests.model.exact_shapes import DOUBLE, Ball, Box, Rod, Union, rotation

LIKE = torch.zeros(0, dtype=DOUBLE)
FINEST_CELL = 2 / (GRID.coarsest_cells * 4)


class Counted:
    """Counts the points at which a field is evaluated."""

    def __init__(self, sdf) -> None:
        self.sdf, self.points = sdf, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.points += x.shape[0]
        return self.sdf(x)


def torus(x: Tensor) -> Tensor:
    return torch.hypot(torch.hypot(x[:, 0], x[:, 1]) - 0.55, x[:, 2]) - 0.2


def build(sdf, half_side: float = 1.0, levels: int = 2, margin: float = 0.0) -> SdfGrid:
    return build_sdf_grid(sdf, half_side, levels, margin, LIKE)


def random_points(num: int, half_side: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(num, 3, generator=generator, dtype=DOUBLE) - 1) * half_side


def node_positions(grid: SdfGrid) -> Tensor:
    axis = torch.linspace(-grid.half_side, grid.half_side, grid.values.shape[0], dtype=DOUBLE)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def excluded_zeros(grid: SdfGrid, on_surface: Tensor) -> int:
    """Counts points on the surface at which the grid excludes one."""
    values, errors = grid.at(on_surface)
    # 1e-9: f of a point on the surface in float64.
    return int((values.abs() > errors + 1e-9).sum())


SMOOTH = {"ball": Ball(radius=0.5).sdf, "far ball": Ball((0.3, -0.2, 0.4), 0.31).sdf, "torus": torus}


# --- nodes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_side", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_nodes_near_the_surface_hold_f(levels: int, half_side: float) -> None:
    def sdf(x: Tensor) -> Tensor:
        return torus(x / half_side) * half_side

    grid = build(sdf, half_side, levels)
    assert grid.values.dtype == grid.errors.dtype == DOUBLE and grid.half_side == half_side
    assert grid.values.shape == grid.errors.shape == (GRID.coarsest_cells * 2**levels + 1,) * 3
    nodes, node_values = node_positions(grid), grid.values.reshape(-1)
    near = node_values.abs() < grid.spacing / 2
    assert near.sum() > 100 or levels == 0
    assert (sdf(nodes)[near] - node_values[near]).abs().max() < 1e-12  # positions are rounded
    at_nodes, _ = grid.at(nodes)
    assert (at_nodes - node_values).abs().max() < 1e-12


def test_the_first_index_runs_along_x() -> None:
    grid = build(lambda x: x[:, 0] + 10 * x[:, 1] + 100 * x[:, 2])
    values, _ = grid.at(torch.tensor([[0.3, 0.02, -0.007]], dtype=DOUBLE))
    assert values.item() == pytest.approx(0.3 + 0.2 - 0.7, abs=1e-9)  # linear: interpolation is exact


def test_points_outside_are_clamped_to_the_cube() -> None:
    grid = build(torus)
    outside, border = torch.tensor([[2.0, 0.3, -5.0]]).double(), torch.tensor([[1.0, 0.3, -1.0]]).double()
    assert torch.equal(grid.at(outside)[0], grid.at(border)[0])
    assert grid.at(outside.reshape(1, 1, 3))[0].shape == (1, 1)


# --- the bound ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_smooth_fields_stay_within_the_bound(name: str, levels: int) -> None:
    grid, points = build(SMOOTH[name], levels=levels), random_points(40_000 * 2**levels)
    values, errors = grid.at(points)
    exact = SMOOTH[name](points)
    valid = values.abs() <= errors  # the bound is claimed where a surface is possible
    assert valid.sum() > 50
    assert ((exact - values).abs() <= errors)[valid].all()
    assert (exact[~valid].sign() == values[~valid].sign()).all()


def test_the_bound_of_a_smooth_field_is_narrow() -> None:
    """A bound that excluded nothing would hold as well."""
    grid = build(Ball(radius=0.5).sdf)
    shell = random_points(4000)
    shell = 0.5 * shell / shell.norm(dim=1, keepdim=True)
    _, errors = grid.at(shell)
    # h^2 / 8 / r per curved axis, four times as much in the latest correction, and the smallest bound.
    assert errors.max() < 2 * 4 * FINEST_CELL**2 / 8 / 0.5 * 1.2 + GRID.min_error
    assert errors.max() < grid.widest_error / 5


THICKNESSES = (0.3, 0.1, 0.02)  # cells


@pytest.mark.parametrize("cells", THICKNESSES)
@pytest.mark.parametrize("turn", [None, 1, 2, 3])
def test_thin_sheets_are_never_excluded(turn: int | None, cells: float) -> None:
    axes = torch.eye(3, dtype=DOUBLE) if turn is None else rotation(turn)
    half = (0.5, 0.5, cells * FINEST_CELL / 2)
    flat = random_points(4000, seed=7) * torch.tensor(half, dtype=DOUBLE)
    flat[:, 2] = half[2]  # its upper face
    for offset in (0.0, 0.1, 0.25, 0.5, 0.77):  # cells
        center = offset * FINEST_CELL * axes[2]
        grid = build(Box(half, tuple(center.tolist()), axes).sdf)
        assert excluded_zeros(grid, flat @ axes + center) == 0, offset


@pytest.mark.parametrize("cells", THICKNESSES)
def test_thin_rods_are_never_excluded(cells: float) -> None:
    for seed in range(4):
        axes, shift = rotation(seed), random_points(1, FINEST_CELL, seed)[0]
        radius = cells * FINEST_CELL / 2
        rod = Rod(tuple((shift - 0.5 * axes[0]).tolist()), tuple((shift + 0.5 * axes[0]).tolist()), radius)
        along = torch.linspace(-0.5, 0.5, 4000, dtype=DOUBLE).unsqueeze(1)
        on_surface = shift + along * axes[0] + radius * axes[1]
        assert rod.sdf(on_surface).abs().max() < 1e-12
        assert excluded_zeros(build(rod.sdf), on_surface) == 0, seed


@pytest.mark.parametrize("gap", [0.3, 0.05])
def test_balls_that_nearly_touch(gap: float) -> None:
    gap = gap * FINEST_CELL
    shape = Union([Ball((0.0, 0.013, 0.3 + gap / 2), 0.3), Ball((0.0, 0.013, -0.3 - gap / 2), 0.3)])
    grid = build(shape.sdf)
    towards = random_points(6000)
    towards = 0.3 * towards / towards.norm(dim=1, keepdim=True)
    for sign in (-1, 1):
        center = torch.tensor([0.0, 0.013, sign * (0.3 + gap / 2)], dtype=DOUBLE)
        assert excluded_zeros(grid, center + towards) == 0


@pytest.mark.parametrize("levels", [1, 2])
def test_cells_that_are_not_split_hold_no_surface(levels: int) -> None:
    """A ball of radius 1e-6 anywhere: only L reveals it."""
    for seed in range(20):
        center = random_points(1, 0.95, seed)
        ball = Counted(Ball(tuple(center[0].tolist()), 1e-6).sdf)
        grid = build(ball, levels=levels)
        _, errors = grid.at(center)
        values, _ = grid.at(center)
        assert values.item() <= grid.widest_error, seed  # its cell was split at every level
        index = ((center[0] + 1) / grid.spacing).floor().long()
        cell = tuple(slice(i, i + 2) for i in index.tolist())
        corners = node_positions(grid).reshape(*grid.values.shape, 3)[cell].reshape(-1, 3)
        assert (grid.values[cell].reshape(-1) - ball.sdf(corners)).abs().max() < 1e-12, seed
        assert errors.item() > 0


# --- the Lipschitz constant ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "expected"), [(0.5, 1.0), (1.0, 1.0), (2.0, 2.0)])
def test_the_slope_is_estimated_and_never_below_one(slope: float, expected: float) -> None:
    grid = build(lambda x: slope * Ball(radius=0.5).sdf(x))
    # On the axes, the slope between nodes is the whole slope.
    assert expected * 0.99 <= grid.lipschitz <= expected * (1 + 1e-9)
    assert grid.widest_error == pytest.approx(grid.lipschitz * FINEST_CELL * math.sqrt(3) / 2)


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_other_slopes_keep_the_bound(slope: float) -> None:
    for sdf in (torus, Box((0.5, 0.4, 0.1 * FINEST_CELL), (0.0, 0.0, 0.006), rotation(4)).sdf):
        grid, points = build(lambda x, sdf=sdf: slope * sdf(x)), random_points(40_000)
        values, errors = grid.at(points)
        exact = slope * sdf(points)
        # Excluded points are on the side of the surface that the grid predicts.
        outside, inside = values > errors, values < -errors
        assert (exact[outside] > 0).all() and (exact[inside] < 0).all() and outside.sum() > 10_000


def test_lipschitz_bound_uses_slopes_near_the_surface_only() -> None:
    axis = torch.linspace(-1, 1, 33, dtype=DOUBLE)
    ramp = torch.where(axis < 0.4, axis, 0.4 + 5 * (axis - 0.4))[:, None, None].expand(33, 33, 33)
    assert lipschitz_bound(ramp, 1 / 16) == pytest.approx(1.0)
    assert lipschitz_bound(ramp - 0.6, 1 / 16) == pytest.approx(5.0)


# --- cost and edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_side", [0.5, 1.0])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_evaluations_are_counted_and_not_repeated(levels: int, half_side: float) -> None:
    seen: list[Tensor] = []

    def sdf(x: Tensor) -> Tensor:
        seen.append(x)
        return torus(x)

    grid = build(sdf, half_side, levels)
    points = torch.cat(seen)
    assert grid.num_evaluations == points.shape[0]
    assert points.unique(dim=0).shape[0] == points.shape[0]
    assert points.abs().max() <= half_side * (1 + 1e-12)
    if levels == 2:
        assert points.shape[0] < 65**3 / 4  # sparse


@pytest.mark.parametrize("value", [5.0, -5.0])
def test_without_a_zero_only_the_coarsest_level_is_evaluated(value: float) -> None:
    grid = build(lambda x: torch.full_like(x[:, 0], value))
    assert grid.num_evaluations == (GRID.coarsest_cells + 1) ** 3 and grid.lipschitz == 1.0
    values, errors = grid.at(random_points(100))
    assert (values - value).abs().max() < 1e-12 and (errors < abs(value)).all()


def test_a_margin_splits_more_cells() -> None:
    tight, loose = build(torus), build(torus, margin=0.05)
    assert loose.num_evaluations > tight.num_evaluations
    nodes, node_values = node_positions(loose), loose.values.reshape(-1)
    within = torus(nodes).abs() <= 0.05  # these were evaluated
    assert (torus(nodes)[within] - node_values[within]).abs().max() < 1e-12
