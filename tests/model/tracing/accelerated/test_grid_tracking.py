"""The grid of a network in training: it follows the network, is saved and restored, and is discarded."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.model.exact_shapes import DOUBLE, Ball, Union
from tests.model.networks import camera_input, idr_network, loss_of
from torch import Tensor

from idr.errors import InputError
from idr.fields.sdf_grid import Sdf, SdfGrid
from idr.geometry.cameras import pixel_rays
from idr.model.implicit_differentiable_renderer import draw_step
from idr.model.tracing.accelerated import grid_tracking
from idr.model.tracing.accelerated.grid_tracking import TRACKING, GridTracker

LIKE = torch.zeros(0, dtype=DOUBLE)
MOVES = {
    "translation": lambda k: Ball((0.002 * k, -0.001 * k, 0.0), 0.5).sdf,
    "growth": lambda k: Ball(radius=0.5 + 0.003 * k).sdf,
    "shift": lambda k: lambda x: Ball(radius=0.5).sdf(x) + 0.002 * k,
}


def random_points(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, 3, generator=generator, dtype=DOUBLE) - 1


def follow(tracker: GridTracker, sdf: Sdf, like: Tensor) -> tuple[SdfGrid, float]:
    """Returns the grid that a tracer would look up, and the drift bound."""
    (grid, drift_tensor), drift_bound, counts = tracker.follow(
        sdf, like, lambda grid, drift: ((grid, drift), torch.tensor([3, 1 << 20]))
    )
    assert float(drift_tensor) == drift_bound and counts == [3, 1 << 20]
    return grid, drift_bound


NOTHING = (torch.zeros(0, 3, dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE))


def nodes_of(grid) -> Tensor:
    axis = torch.linspace(-grid.half_side, grid.half_side, grid.values.shape[0], dtype=DOUBLE)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


@pytest.mark.parametrize("name", MOVES)
def test_drift_bound_holds_for_moving_fields(name: str) -> None:
    tracker, moved = GridTracker(1.0), 0
    for k in range(20):
        sdf = MOVES[name](k)
        grid, drift_bound = follow(tracker, sdf, LIKE)
        exact = sdf(nodes_of(grid))
        near = exact.abs() < 0.05
        assert near.sum() > 100
        # 1e-3: the probes are a sample; the smallest bound of the grid's own error is 2e-3.
        assert (exact - grid.values.reshape(-1))[near].abs().max() <= drift_bound + 1e-3, k
        moved += drift_bound > 0
    assert moved > 5  # not always rebuilt


def test_a_constant_shift_causes_almost_no_drift() -> None:
    tracker = GridTracker(1.0)
    follow(tracker, Ball().sdf, LIKE)
    _, drift_bound = follow(tracker, lambda x: Ball().sdf(x) + 0.01, LIKE)
    assert drift_bound < 1e-4  # from the ridge


def test_probes_notice_a_part_that_appears() -> None:
    tracker, before = GridTracker(1.0), Ball((-0.4, 0.0, 0.0), 0.3).sdf
    after = Union([Ball((-0.4, 0.0, 0.0), 0.3), Ball((0.6, 0.3, 0.3), 0.25)]).sdf
    follow(tracker, before, LIKE)
    steps, noticed = 0, False
    while not noticed and steps < 30:
        grid, drift_bound = follow(tracker, after, LIKE)
        steps += 1
        noticed = grid.at(torch.tensor([[0.6, 0.3, 0.3]], dtype=DOUBLE))[0].item() < drift_bound
    # f falls below the band in about 2 % of the cube, which 16 probes a step soon reach.
    assert noticed


def test_an_observed_miss_causes_a_rebuild() -> None:
    tracker = GridTracker(1.0)
    first, _ = follow(tracker, Ball().sdf, LIKE)
    tracker.observe(*NOTHING, torch.zeros(64, dtype=torch.bool))
    _, _ = follow(tracker, Ball().sdf, LIKE)
    assert tracker.state()["age"] == 1
    tracker.observe(*NOTHING, torch.arange(64) < 2)
    tiny = Union([Ball(), Ball((0.7, 0.5, 0.0), 0.01)]).sdf
    grid, drift_bound = follow(tracker, tiny, LIKE)
    assert drift_bound == 0 and tracker.state()["age"] == 0
    value, error = grid.at(torch.tensor([[0.7, 0.5, 0.0]], dtype=DOUBLE))
    assert value.item() <= error.item()  # the new one leaves the tiny part possible
    assert first.values.shape[0] >= 17


def test_observed_values_correct_the_grid_everywhere() -> None:
    """A field that moves unlike any quadratic, observed at some points of each step."""
    far = random_points(4000, seed=99)
    errors = {}
    for observes in (False, True):
        tracker, worst = GridTracker(1.0), []
        for k in range(12):

            def sdf(x: Tensor, k: int = k) -> Tensor:
                return Ball(radius=0.5).sdf(x) + 0.004 * k * torch.sin(4 * x[:, 0]) * torch.cos(3 * x[:, 2])

            grid, _ = follow(tracker, sdf, LIKE)
            away = sdf(far) > 0.2
            worst.append((grid.at(far)[0] - sdf(far))[away].square().mean().sqrt().item())
            if observes:
                points = random_points(1500, seed=k)
                tracker.observe(points, sdf(points), torch.zeros(64, dtype=torch.bool))
        errors[observes] = max(worst)
    assert errors[True] < 0.01  # two steps of the field, of eleven
    assert errors[False] > 2 * errors[True]


@pytest.mark.parametrize(("period", "short"), [(0.25, True), (6.0, False)])
def test_only_short_ripples_count(period: float, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_tracking, "TRACKING", replace(TRACKING, settling_rays=64))

    def sdf_at(k: int) -> Sdf:
        return lambda x: Ball().sdf(x) + 0.03 * torch.sin(2 * torch.pi / period * x + k).mean(dim=1)

    def step(tracker: GridTracker, k: int) -> None:
        follow(tracker, sdf_at(k), LIKE)
        points = random_points(1500, seed=k)
        tracker.observe(points, sdf_at(k)(points), torch.zeros(32, dtype=torch.bool))

    tracker, other = GridTracker(1.0), GridTracker(1.0)
    for k in range(6):
        step(tracker, k)
        assert tracker.has_ripples == (short and k > 2), k  # 32 rays a step, the first 64 do not count
    other.load_state(pickle.loads(pickle.dumps(tracker.state())), LIKE, "here")
    step(tracker, 6)
    step(other, 6)
    assert other.has_ripples == tracker.has_ripples == short


def test_older_checkpoints_without_ripples_load() -> None:
    tracker, other = GridTracker(1.0), GridTracker(1.0)
    follow(tracker, Ball().sdf, LIKE)
    state = tracker.state()
    del state["traced"]
    other.load_state(state | {"report": [64, 0]}, LIKE, "here")
    follow(other, Ball().sdf, LIKE)
    assert other.state()["age"] == 1 and other.state()["traced"] == 64 and not other.has_ripples


def test_a_surface_may_vanish_and_return() -> None:
    tracker = GridTracker(1.0)
    follow(tracker, Ball().sdf, LIKE)
    nothing, drift_bound = follow(tracker, lambda x: torch.full_like(x[:, 0], 2.0), LIKE)
    assert (nothing.values > nothing.errors + drift_bound).all()
    back, drift_bound = follow(tracker, Ball().sdf, LIKE)
    on_surface = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0]], dtype=DOUBLE)
    value, error = back.at(on_surface)
    assert (value.abs() <= error + drift_bound).all()


def test_a_step_evaluates_the_probes_alone() -> None:
    seen = []

    def sdf(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return Ball().sdf(x)

    tracker = GridTracker(1.0)
    grid, _ = follow(tracker, sdf, LIKE)
    assert sum(seen) == grid.num_evaluations
    seen.clear()
    follow(tracker, sdf, LIKE)
    assert seen == [TRACKING.near_probes + TRACKING.far_probes]


# --- state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_restored_tracker_continues_to_the_same_bits(steps: int) -> None:
    one, other = GridTracker(1.0), GridTracker(1.0)
    for k in range(steps):
        follow(one, MOVES["translation"](k), LIKE)
        points = random_points(50, seed=k)
        one.observe(points, MOVES["translation"](k)(points), torch.zeros(64, dtype=torch.bool))
    state = one.state()
    assert (state is None) == (steps == 0)
    if state is not None:
        other.load_state(pickle.loads(pickle.dumps(state)), LIKE, "here")
    for k in range(steps, steps + 4):
        (grid, drift), (grid_other, drift_other) = (
            follow(tracker, MOVES["translation"](k), LIKE) for tracker in (one, other)
        )
        assert drift == drift_other and torch.equal(grid.values, grid_other.values)
        assert torch.equal(grid.errors, grid_other.errors) and grid.lipschitz == grid_other.lipschitz


def test_the_grid_of_another_sphere_is_not_restored() -> None:
    one, other = GridTracker(1.0), GridTracker(1.2)
    follow(one, Ball().sdf, LIKE)
    other.load_state(one.state(), LIKE, "here")
    assert other.state() is None


def built_state() -> dict[str, Any]:
    tracker = GridTracker(1.0)
    follow(tracker, Ball().sdf, LIKE)
    state = tracker.state()
    assert state is not None
    return state


SPOILED_NUMBERS = ["text", None, True, -1, math.nan, math.inf, [1], torch.ones(3)]


def spoiled_grids() -> list[Any]:
    cube = torch.ones(33, 33, 33)
    shapes = [torch.ones(32, 32, 32), torch.ones(33, 33, 17), torch.ones(33, 33)]
    types = [cube.long(), cube.bool(), cube.to(torch.complex64)]
    layouts = [cube.to("meta"), cube.to_sparse(), torch.quantize_per_tensor(cube, 0.1, 0, torch.qint8)]
    return ["text", None, 1.0, *shapes, *types, *layouts, cube * math.nan, cube * math.inf]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("key", sorted(built_state()))
def test_spoiled_states_are_refused(key: str) -> None:
    state = built_state()
    GridTracker(1.0).load_state(state, LIKE, "here")
    spoiled: list[Any] = spoiled_grids() if key in ("values", "errors") else SPOILED_NUMBERS
    for value in spoiled:
        tracker = GridTracker(1.0)
        with pytest.raises(InputError, match=rf"here, TracerState.{key}: got .*; expected .*; continue from"):
            tracker.load_state(state | {key: value}, LIKE, "here")
        assert tracker.state() is None
    without = {name: value for name, value in state.items() if name != key}
    if key != "traced":
        with pytest.raises(InputError, match=rf"TracerState.{key}: got nothing"):
            GridTracker(1.0).load_state(without, LIKE, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("level", 3),
        ("report", [1.0]),
        ("report", [1.0, math.nan, 0.0]),
        ("report", "12"),
        ("age", 1.5),
        ("errors", -torch.ones(33, 33, 33, dtype=DOUBLE)),
        ("errors", torch.ones(17, 17, 17, dtype=DOUBLE)),
        ("errors", torch.ones(33, 33, 33)),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"here, TracerState.{key}: got "):
        GridTracker(1.0).load_state(built_state() | {key: value}, LIKE, "here")


# --- in a network -------------------------------------------------------------------------------------------


def step(network, optimizer, seed: int) -> None:
    optimizer.zero_grad()
    batch = camera_input(seed=seed) | {"generator": torch.Generator().manual_seed(seed)}
    loss_of(network.train()(batch))["loss"].backward()
    optimizer.step()


def test_evaluation_between_steps_does_not_change_training() -> None:
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
        network.eval()(camera_input())  # builds a grid for the weights before the step
        step(network, optimizer, k)
    fresh = idr_network().eval()
    fresh.load_state_dict(network.state_dict())
    ours, expected = network.eval()(camera_input()), fresh(camera_input())
    assert torch.equal(ours["points"], expected["points"])


def test_loading_weights_discards_the_grid_which_is_not_in_the_state_dict() -> None:
    network = idr_network().train()
    names = list(network.state_dict())
    network(camera_input())
    assert network.tracer_state() is not None and list(network.state_dict()) == names
    network.load_state_dict(idr_network(1).state_dict())
    assert network.tracer_state() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_a_grid_of_their_own(copied) -> None:
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


def test_another_dtype_builds_another_grid() -> None:
    network = idr_network().train()
    network(camera_input())
    outputs = network.double()(camera_input(dtype=torch.float64))
    assert outputs["points"].dtype == torch.float64
    assert network.tracer_state()["values"].dtype == torch.float64


# --- f and its gradient in one pass -------------------------------------------------------------------------


def test_one_pass_equals_separate_passes() -> None:
    """All derivatives of a loss of values and gradients, against separate passes, in float64."""
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

    ours = gradients(lambda points: network._sdf_in_training(points, cube, torch.zeros(12, dtype=torch.bool)))
    expected = gradients(published)
    assert (ours[1] - expected[1]).abs().max() < 1e-12 and (ours[2] - expected[2]).abs().max() < 1e-12
    for one, other in zip(ours[0], expected[0], strict=True):
        assert (one - other).abs().max() <= 1e-10 * (1 + other.abs().max())  # rounding
    assert expected[0][0].abs().min() > 1e-3


def test_mask_values_follow_the_cameras_at_fixed_tracing() -> None:
    network = idr_network().double().train()
    batch = camera_input(num_pixels=6, dtype=torch.float64, vectors=True)
    base = batch["pose"].detach()
    with torch.no_grad():
        directions, centers = pixel_rays(batch["uv"], base, batch["intrinsics"])
        draws = draw_step(12, network.tracer_config, directions, torch.Generator().manual_seed(0))
        traced = network._trace(centers, directions, batch["object_mask"].reshape(-1), draws)
    weights = torch.linspace(-1, 2, 12, dtype=DOUBLE)

    def loss(pose: Tensor) -> Tensor:
        directions, centers = pixel_rays(batch["uv"], pose, batch["intrinsics"])
        points = centers.repeat_interleave(6, dim=0) + traced.depth.unsqueeze(1) * directions.reshape(-1, 3)
        values, _ = network._sdf_in_training(points, draws.eikonal_points, traced.hit)
        return (weights * values.squeeze(1)).sum()

    pose = base.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(loss(pose), pose)
    # Central differences of the network itself, without the graph of `_fields`.
    numeric = torch.zeros_like(base)
    for place in range(base.numel()):
        ends = []
        for sign in (-1, 1):
            moved = base.clone().reshape(-1)
            moved[place] += sign * 1e-6
            directions, centers = pixel_rays(batch["uv"], moved.reshape(base.shape), batch["intrinsics"])
            points = centers.repeat_interleave(6, dim=0) + traced.depth.unsqueeze(1) * directions.reshape(
                -1, 3
            )
            with torch.no_grad():
                ends.append((weights * network.implicit_network.sdf(points)).sum())
        numeric.view(-1)[place] = (ends[1] - ends[0]) / 2e-6
    assert ours.abs().max() > 0.1
    assert (ours - numeric).abs().max() < 1e-5 * ours.abs().max()  # differences of 1e-6; softplus is sharp
