"""The grid of a network in training: true to what moves, saved and restored, forgotten when it must be."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.model.exact_shapes import DOUBLE, Ball, Union
from tests.model.networks import camera_input, idr_network, loss_of
from torch import Tensor

from idr.fields.sdf_grid import Sdf, SdfGrid
from idr.geometry.cameras import pixel_rays
from idr.model.implicit_differentiable_renderer import draw_step
from idr.model.tracing.accelerated import grid_tracking as upkeep_module
from idr.model.tracing.accelerated.grid_tracking import FAR_PROBES, NEAR_PROBES, GridUpkeep

LIKE = torch.zeros(0, dtype=DOUBLE)
MOVES = {
    "translation": lambda k: Ball((0.002 * k, -0.001 * k, 0.0), 0.5).sdf,
    "growth": lambda k: Ball(radius=0.5 + 0.003 * k).sdf,
    "shift": lambda k: lambda x: Ball(radius=0.5).sdf(x) + 0.002 * k,
}


def random_points(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, 3, generator=generator, dtype=DOUBLE) - 1


def follow(upkeep: GridUpkeep, sdf: Sdf, like: Tensor) -> tuple[SdfGrid, float]:
    """The grid as a tracer would see it, and the slack that was read."""
    (grid, slack_there), slack, counts = upkeep.follow(
        sdf, like, lambda grid, slack: ((grid, slack), torch.tensor([3, 1 << 20]))
    )
    assert float(slack_there) == slack and counts == [3, 1 << 20]
    return grid, slack


NOTHING = (torch.zeros(0, 3, dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE))


def nodes_of(grid) -> Tensor:
    axis = torch.linspace(-grid.half_side, grid.half_side, grid.values.shape[0], dtype=DOUBLE)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


@pytest.mark.parametrize("name", MOVES)
def test_slack_bounds_what_a_moving_field_leaves(name: str) -> None:
    upkeep, moved = GridUpkeep(1.0), 0
    for k in range(20):
        sdf = MOVES[name](k)
        grid, slack = follow(upkeep, sdf, LIKE)
        exact = sdf(nodes_of(grid))
        near = exact.abs() < 0.05
        assert near.sum() > 100
        # 1e-3: the least bound of the grid's own error is 2e-3; the probes are a sample.
        assert (exact - grid.values.reshape(-1))[near].abs().max() <= slack + 1e-3, k
        moved += slack > 0
    assert moved > 5  # not all of it was built anew


def test_a_shift_by_a_constant_costs_next_to_no_slack() -> None:
    upkeep = GridUpkeep(1.0)
    follow(upkeep, Ball().sdf, LIKE)
    _, slack = follow(upkeep, lambda x: Ball().sdf(x) + 0.01, LIKE)
    assert slack < 1e-4  # but for the ridge's 1e-4 of the coefficient


def test_a_part_that_appears_is_noticed_by_probes() -> None:
    upkeep, before = GridUpkeep(1.0), Ball((-0.4, 0.0, 0.0), 0.3).sdf
    after = Union([Ball((-0.4, 0.0, 0.0), 0.3), Ball((0.6, 0.3, 0.3), 0.25)]).sdf
    follow(upkeep, before, LIKE)
    steps, noticed = 0, False
    while not noticed and steps < 30:
        grid, slack = follow(upkeep, after, LIKE)
        steps += 1
        noticed = grid.at(torch.tensor([[0.6, 0.3, 0.3]], dtype=DOUBLE))[0].item() < slack
    # f changes to below the band in about 2 % of the cube, which 16 probes a step soon meet.
    assert noticed


def test_a_reported_miss_builds_anew() -> None:
    upkeep = GridUpkeep(1.0)
    first, _ = follow(upkeep, Ball().sdf, LIKE)
    upkeep.report(*NOTHING, torch.zeros(64, dtype=torch.bool))
    _, _ = follow(upkeep, Ball().sdf, LIKE)
    assert upkeep.carried()["age"] == 1
    upkeep.report(*NOTHING, torch.arange(64) < 2)
    tiny = Union([Ball(), Ball((0.7, 0.5, 0.0), 0.01)]).sdf
    grid, slack = follow(upkeep, tiny, LIKE)
    assert slack == 0 and upkeep.carried()["age"] == 0
    value, error = grid.at(torch.tensor([[0.7, 0.5, 0.0]], dtype=DOUBLE))
    assert value.item() <= error.item()  # and the new one leaves the tiny part possible
    assert first.values.shape[0] >= 17


def test_what_is_reported_corrects_the_grid_everywhere() -> None:
    """A field that moves as no quadratic does, known at some points of each step."""
    far = random_points(4000, seed=99)
    errors = {}
    for reports in (False, True):
        upkeep, worst = GridUpkeep(1.0), []
        for k in range(12):

            def sdf(x: Tensor, k: int = k) -> Tensor:
                return Ball(radius=0.5).sdf(x) + 0.004 * k * torch.sin(4 * x[:, 0]) * torch.cos(3 * x[:, 2])

            grid, _ = follow(upkeep, sdf, LIKE)
            away = sdf(far) > 0.2
            worst.append((grid.at(far)[0] - sdf(far))[away].square().mean().sqrt().item())
            if reports:
                points = random_points(1500, seed=k)
                upkeep.report(points, sdf(points), torch.zeros(64, dtype=torch.bool))
        errors[reports] = max(worst)
    assert errors[True] < 0.01  # two steps of the field; it moves by 0.044 in all
    assert errors[False] > 2 * errors[True]


@pytest.mark.parametrize(("period", "wavy"), [(0.25, True), (6.0, False)])
def test_waves_are_told_from_what_corrections_follow(
    period: float, wavy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "SETTLING_RAYS", 64)

    def sdf_at(k: int) -> Sdf:
        return lambda x: Ball().sdf(x) + 0.03 * torch.sin(2 * torch.pi / period * x + k).mean(dim=1)

    def step(upkeep: GridUpkeep, k: int) -> None:
        follow(upkeep, sdf_at(k), LIKE)
        points = random_points(1500, seed=k)
        upkeep.report(points, sdf_at(k)(points), torch.zeros(32, dtype=torch.bool))

    upkeep, other = GridUpkeep(1.0), GridUpkeep(1.0)
    for k in range(6):
        step(upkeep, k)
        assert upkeep.wavy == (wavy and k > 2), k  # 32 rays a step; those of the first 64 do not count
    other.restore(pickle.loads(pickle.dumps(upkeep.carried())), LIKE)
    step(upkeep, 6)
    step(other, 6)
    assert other.wavy == upkeep.wavy == wavy


def test_checkpoints_of_before_waves_were_counted_are_read() -> None:
    upkeep, other = GridUpkeep(1.0), GridUpkeep(1.0)
    follow(upkeep, Ball().sdf, LIKE)
    carried = upkeep.carried()
    del carried["traced"]
    other.restore(carried | {"report": [64, 0]}, LIKE)
    follow(other, Ball().sdf, LIKE)
    assert other.carried()["age"] == 1 and other.carried()["traced"] == 64 and not other.wavy


def test_vanishing_and_coming_back() -> None:
    upkeep = GridUpkeep(1.0)
    follow(upkeep, Ball().sdf, LIKE)
    nothing, slack = follow(upkeep, lambda x: torch.full_like(x[:, 0], 2.0), LIKE)
    assert (nothing.values > nothing.errors + slack).all()
    back, slack = follow(upkeep, Ball().sdf, LIKE)
    on_surface = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0]], dtype=DOUBLE)
    value, error = back.at(on_surface)
    assert (value.abs() <= error + slack).all()


def test_probes_are_the_price_of_a_step() -> None:
    seen = []

    def sdf(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return Ball().sdf(x)

    upkeep = GridUpkeep(1.0)
    grid, _ = follow(upkeep, sdf, LIKE)
    assert sum(seen) == grid.num_evaluations
    seen.clear()
    follow(upkeep, sdf, LIKE)
    assert seen == [NEAR_PROBES + FAR_PROBES]


# --- carried from step to step ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_restored_goes_on_to_the_same_bits(steps: int) -> None:
    one, other = GridUpkeep(1.0), GridUpkeep(1.0)
    for k in range(steps):
        follow(one, MOVES["translation"](k), LIKE)
        points = random_points(50, seed=k)
        one.report(points, MOVES["translation"](k)(points), torch.zeros(64, dtype=torch.bool))
    carried = one.carried()
    assert (carried is None) == (steps == 0)
    if carried is not None:
        other.restore(pickle.loads(pickle.dumps(carried)), LIKE)
    for k in range(steps, steps + 4):
        (grid, slack), (grid_other, slack_other) = (
            follow(upkeep, MOVES["translation"](k), LIKE) for upkeep in (one, other)
        )
        assert slack == slack_other and torch.equal(grid.values, grid_other.values)
        assert torch.equal(grid.errors, grid_other.errors) and grid.lipschitz == grid_other.lipschitz


def test_the_grid_of_another_sphere_is_refused() -> None:
    one, other = GridUpkeep(1.0), GridUpkeep(1.2)
    follow(one, Ball().sdf, LIKE)
    other.restore(one.carried(), LIKE)
    assert other.carried() is None


# --- in a network -------------------------------------------------------------------------------------------


def step(network, optimizer, seed: int) -> None:
    optimizer.zero_grad()
    given = camera_input(seed=seed) | {"generator": torch.Generator().manual_seed(seed)}
    loss_of(network.train()(given))["loss"].backward()
    optimizer.step()


def test_evaluation_between_steps_changes_no_bit() -> None:
    states = []
    for interrupted in (False, True):
        network = idr_network()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for k in range(4):
            if interrupted:
                network.eval()(camera_input(seed=k))
            step(network, optimizer, k)
        states.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_evaluation_sees_weights_that_an_optimizer_moved() -> None:
    network = idr_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for k in range(3):
        network.eval()(camera_input())  # builds a grid of the weights before the step
        step(network, optimizer, k)
    fresh = idr_network().eval()
    fresh.load_state_dict(network.state_dict())
    ours, expected = network.eval()(camera_input()), fresh(camera_input())
    assert torch.equal(ours["points"], expected["points"])


def test_loading_weights_forgets_and_nothing_enters_the_state() -> None:
    network = idr_network().train()
    names = list(network.state_dict())
    network(camera_input())
    assert network.tracer_state() is not None and list(network.state_dict()) == names
    network.load_state_dict(idr_network(1).state_dict())
    assert network.tracer_state() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_carry_a_grid_of_their_own(copied) -> None:
    network = idr_network().train()

    def step(model) -> None:
        model({**camera_input(), "generator": torch.Generator().manual_seed(0)})

    for _ in range(2):
        step(network)
    network.zero_grad()
    other = copied(network)
    before = network.tracer_state()["age"]
    step(other)
    assert network.tracer_state()["age"] == before
    step(network)
    assert torch.equal(network.tracer_state()["values"], other.tracer_state()["values"])


def test_another_precision_builds_another_grid() -> None:
    network = idr_network().train()
    network(camera_input())
    outputs = network.double()(camera_input(dtype=torch.float64))
    assert outputs["points"].dtype == torch.float64
    assert network.tracer_state()["values"].dtype == torch.float64


# --- f and its gradient in one pass -------------------------------------------------------------------------


def test_one_pass_equals_separate_passes() -> None:
    """All derivatives of a loss of f at the points and of gradients, against one pass each, in float64."""
    network = idr_network().double()
    generator = torch.Generator().manual_seed(0)
    base = 0.6 * torch.randn(12, 3, generator=generator, dtype=DOUBLE)
    cube = 2 * torch.rand(6, 3, generator=generator, dtype=DOUBLE) - 1
    weights = torch.randn(12, 1, generator=generator, dtype=DOUBLE)
    shift = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    inputs = [shift, *network.implicit_network.parameters()]

    def gradients(fields) -> tuple[list[Tensor], Tensor, Tensor]:
        values, normals = fields(base + shift.sin())
        loss = (weights * torch.sigmoid(values)).sum() + ((normals.norm(dim=1) - 1) ** 2).mean()
        grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        return list(grads), values.detach(), normals.detach()

    def published(points: Tensor) -> tuple[Tensor, Tensor]:
        normals = network.implicit_network.gradient(torch.cat((cube, points.detach()))).squeeze(1)
        return network.implicit_network(points)[:, :1], normals

    ours = gradients(lambda points: network._fields(points, cube, torch.zeros(12, dtype=torch.bool)))
    expected = gradients(published)
    assert (ours[1] - expected[1]).abs().max() < 1e-12 and (ours[2] - expected[2]).abs().max() < 1e-12
    for one, other in zip(ours[0], expected[0], strict=True):
        assert (one - other).abs().max() <= 1e-10 * (1 + other.abs().max())  # rounding
    assert expected[0][0].abs().min() > 1e-3


def test_mask_values_follow_the_cameras_at_fixed_tracing() -> None:
    network = idr_network().double().train()
    given = camera_input(num_pixels=6, dtype=torch.float64, vectors=True)
    base = given["pose"].detach()
    with torch.no_grad():
        directions, centers = pixel_rays(given["uv"], base, given["intrinsics"])
        draws = draw_step(12, network.tracer_config, directions, torch.Generator().manual_seed(0))
        traced = network._trace(centers, directions, given["object_mask"].reshape(-1), draws)
    weights = torch.linspace(-1, 2, 12, dtype=DOUBLE)

    def loss(pose: Tensor) -> Tensor:
        directions, centers = pixel_rays(given["uv"], pose, given["intrinsics"])
        points = centers.repeat_interleave(6, dim=0) + traced.depth.unsqueeze(1) * directions.reshape(-1, 3)
        values, _ = network._fields(points, draws.eikonal_points, traced.hit)
        return (weights * values.squeeze(1)).sum()

    pose = base.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(loss(pose), pose)
    # f along the way, where the graph of `_fields` plays no part: central differences of the network itself.
    numeric = torch.zeros_like(base)
    for place in range(base.numel()):
        ends = []
        for sign in (-1, 1):
            moved = base.clone().reshape(-1)
            moved[place] += sign * 1e-6
            directions, centers = pixel_rays(given["uv"], moved.reshape(base.shape), given["intrinsics"])
            points = centers.repeat_interleave(6, dim=0) + traced.depth.unsqueeze(1) * directions.reshape(
                -1, 3
            )
            with torch.no_grad():
                ends.append((weights * network.implicit_network.sdf(points)).sum())
        numeric.view(-1)[place] = (ends[1] - ends[0]) / 2e-6
    assert ours.abs().max() > 0.1
    assert (ours - numeric).abs().max() < 1e-5 * ours.abs().max()  # differences of 1e-6; softplus is sharp
