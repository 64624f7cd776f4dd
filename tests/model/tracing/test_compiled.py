"""The compiled tracer, against a dense search of the same network in plain torch."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tests.model.exact_shapes import DOUBLE, crossing_of
from tests.model.tracing.accelerated.test_tracer import SCENES, Scene, trace, wrong
from torch import Tensor
from torch.nn import functional

from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection
from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from idr.model.tracing import (
    AcceleratedTracer,
    CompiledTracer,
    Rays,
    TracerConfig,
    TraceRequest,
    TraceResult,
    make_tracer,
)
from idr.model.tracing import compiled as compiled_module
from idr.model.twins import find_kernel

CONFIG = TracerConfig(1.0, strategy="compiled")
NUM_RAYS, SAMPLES = 400, 2000


def bumpy_ball(
    backend: str = "numba", features: int = 2, dims: tuple[int, ...] = (32, 30)
) -> ImplicitNetwork:
    """A ball with a surface perturbed by the grid's features."""
    block = {
        "type": "hashgrid", "levels": 4, "features": features, "log2_table": 10, "base_resolution": 4,
        "finest_resolution": 16, "backend": backend,
    }  # fmt: skip
    torch.manual_seed(3)
    network = ImplicitNetwork(2, ImplicitNetworkConfig(3, 1, dims, bias=0.5, encoding=block))
    with torch.no_grad():
        network.encoding.get_parameter("table").uniform_(-0.02, 0.02)
    return network


def camera_rays() -> tuple[Rays, SphereCrossing]:
    """Rays from a camera outside the sphere: some hit the ball, some miss it, some miss the sphere."""
    generator = torch.Generator().manual_seed(0)
    center = torch.tensor([[0.3, -0.4, 2.6]])
    targets = 1.2 * (2 * torch.rand(NUM_RAYS, 3, generator=generator) - 1)
    directions = functional.normalize(targets - center, dim=1)
    crossing = ray_sphere_intersection(center, directions[None], 1.0)
    flat = SphereCrossing(*(x.reshape(-1) for x in (crossing.near, crossing.far, crossing.crosses)))
    return Rays(center.expand(NUM_RAYS, 3), directions), flat


def traced(network: ImplicitNetwork, inside: Tensor) -> tuple[TraceResult, Rays, SphereCrossing]:
    """The result of a training request."""
    tracer = make_tracer(CONFIG)
    assert isinstance(tracer, CompiledTracer)
    tracer.attach(network)
    rays, crossing = camera_rays()
    request = TraceRequest.for_training(network.sdf, rays, crossing, inside, torch.rand(100))
    return tracer.trace(request), rays, crossing


@torch.no_grad()
def dense(network: ImplicitNetwork, rays: Rays, crossing: SphereCrossing) -> tuple[Tensor, Tensor]:
    """Samples f densely on each chord: depths and values (R, S)."""
    fractions = torch.linspace(0, 1, SAMPLES)
    depths = crossing.near[:, None] + fractions * (crossing.far - crossing.near)[:, None]
    return depths, torch.stack([network.sdf(points) for points in rays.at(depths)])


@pytest.mark.parametrize(("features", "dims"), [(2, (32, 30)), (1, (17,)), (3, (16, 16, 16))])
@pytest.mark.parametrize("open_levels", [4.0, 2.4])
def test_first_hits_are_those_of_a_dense_search(
    features: int, dims: tuple[int, ...], open_levels: float
) -> None:
    network = bumpy_ball(features=features, dims=dims)
    network.encoding.open_levels = open_levels
    found, rays, crossing = traced(network, torch.ones(NUM_RAYS, dtype=torch.bool))
    depths, values = dense(network, rays, crossing)
    negative = (values < 0) & crossing.crosses[:, None]
    hit = negative.any(dim=1)
    # Untrained networks are up to three times steeper than a distance: steps may skip a part that a ray
    # grazes.
    grazing = values.amin(dim=1).abs() < 0.01
    assert 50 < int(hit.sum()) < 350
    assert torch.equal(found.hit[~grazing], hit[~grazing])
    first = depths.gather(1, negative.int().argmax(dim=1, keepdim=True)).squeeze(1)
    spacing = (depths[:, 1] - depths[:, 0]).max()
    with torch.no_grad():
        assert network.sdf(rays.at(found.depth)[hit & ~grazing]).abs().max() < 2 * CONFIG.sdf_threshold
    assert (found.depth - first)[hit & ~grazing].abs().max() < 1.1 * spacing  # the zero lies between samples
    assert found.num_shaded == int(found.hit.sum())


def test_rays_for_the_mask_loss_end_where_f_is_small() -> None:
    network = bumpy_ball()
    found, rays, crossing = traced(network, torch.zeros(NUM_RAYS, dtype=torch.bool))
    depths, values = dense(network, rays, crossing)
    with torch.no_grad():
        f = network.sdf(rays.at(found.depth))
    passing, through = crossing.crosses & ~found.hit, crossing.crosses & found.hit
    near_miss = passing & (values.amin(dim=1) < 0.1)
    assert near_miss.sum() > 10 and through.sum() > 50
    assert (f - values.amin(dim=1))[near_miss].max() < 0.01  # steps are as long as f there
    assert (f - values.amin(dim=1))[through].max() < 0.05  # steps inside are as long as |f|, at most 0.5
    missed = ~crossing.crosses
    closest = -(rays.direction * rays.origin).sum(dim=1)
    assert (
        missed.any() and torch.allclose(found.depth[missed], closest[missed]) and not found.hit[missed].any()
    )


def test_a_camera_inside_the_object_hits_at_depth_zero() -> None:
    network, tracer = bumpy_ball(), make_tracer(CONFIG)
    tracer.attach(network)
    rays = Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    crossing = SphereCrossing(torch.zeros(1), torch.ones(1), torch.ones(1, dtype=torch.bool))
    inside = torch.ones(1, dtype=torch.bool)
    found = tracer.trace(TraceRequest.for_training(network.sdf, rays, crossing, inside, torch.rand(5)))
    assert found.hit.all() and found.depth.item() == 0.0


def test_results_are_bit_equal_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = find_kernel("tracing_loops")
    assert loops is not None
    monkeypatch.setattr(loops, "RAYS_PER_JOB", 100)  # four jobs
    network, before, results = bumpy_ball(), torch.get_num_threads(), []
    inside = torch.arange(NUM_RAYS) % 2 == 0
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(traced(network, inside)[0])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0].depth, other.depth) and torch.equal(results[0].hit, other.hit)


def test_without_loops_it_is_the_accelerated_tracer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    compiled_module._log_once.cache_clear()
    inside = torch.ones(NUM_RAYS, dtype=torch.bool)
    with caplog.at_level(logging.DEBUG, logger="idr"):
        plain = traced(bumpy_ball("torch"), inside)[0]
        loops = traced(bumpy_ball("numba"), inside)[0]
    messages = [record.message for record in caplog.records if "strategy" in record.message]
    assert messages == [
        "strategy = compiled: training rays are traced by strategy accelerated: the loops need an encoding "
        "of type hashgrid, no skip layers, numba, a CPU and float32; on a GPU encoding.backend = triton and "
        "at most 64 units a layer and features a point",
        "strategy = compiled: training rays are traced by compiled loops",
    ]
    assert torch.equal(plain.hit, loops.hit)
    assert (plain.depth - loops.depth)[plain.hit].abs().max() < 1e-3


def test_training_has_no_state_and_evaluation_has_its_grid() -> None:
    network, tracer = bumpy_ball(), make_tracer(CONFIG)
    tracer.attach(network)
    rays, crossing = camera_rays()
    inside = torch.ones(NUM_RAYS, dtype=torch.bool)
    request = TraceRequest.for_training(network.sdf, rays, crossing, inside, torch.rand(100))
    trained = tracer.trace(request)
    tracer.observe(torch.zeros(NUM_RAYS, 3), torch.zeros(NUM_RAYS), trained.hit)
    assert tracer.state() is None
    evaluated = tracer.trace(TraceRequest.for_evaluation(network.sdf, rays, crossing))
    assert evaluated.value is not None and torch.equal(evaluated.hit, trained.hit)


def marched(scene: Scene) -> TraceResult:
    """Traces the rays of a scene by the steps of the compiled loops, on the exact signed distance."""
    loops = find_kernel("tracing_loops")
    assert loops is not None
    crossing = crossing_of(scene.rays, scene.radius)
    num_rays = len(crossing.near)
    radius, threshold = np.float32(scene.radius), np.float32(CONFIG.sdf_threshold)
    far = crossing.far.float().numpy()
    state, side = np.zeros((7, num_rays), np.float32), np.zeros(num_rays, np.bool_)
    phase, step = np.zeros(num_rays, np.int64), np.zeros(num_rays, np.int64)
    state[loops.DEPTH] = state[loops.BEST] = crossing.near.float().numpy()
    state[loops.F_BEST] = np.inf
    active = [int(r) for r in crossing.crosses.nonzero()]
    while active:
        depth = torch.from_numpy(state[loops.DEPTH]).to(DOUBLE)
        values = scene.shape.sdf(scene.rays.at(depth)).float().numpy()
        active = [
            r
            for r in active
            if (
                loops._march(state, phase, step, r, values[r], far[r], radius, threshold)
                if phase[r] == loops.MARCHING
                else loops._refine(state, side, step, r, values[r], CONFIG.n_secant_steps, threshold)
            )
        ]
    return TraceResult(
        torch.from_numpy(state[loops.DEPTH]).to(DOUBLE), torch.from_numpy(phase == loops.REFINING)
    )


def smallest_f(scene: Scene) -> Tensor:
    """Returns the smallest f (R,) of many samples along each chord."""
    crossing = crossing_of(scene.rays, scene.radius)
    fractions = torch.linspace(0, 1, SAMPLES, dtype=DOUBLE)
    depths = crossing.near[:, None] + fractions * (crossing.far - crossing.near)[:, None]
    return torch.stack([scene.shape.sdf(points) for points in scene.rays.at(depths)]).amin(dim=1)


@pytest.mark.parametrize("name", SCENES)
def test_training_misses_no_more_of_exact_shapes_than_evaluation(name: str) -> None:
    scene = SCENES[name]
    in_evaluation = wrong(scene, trace(AcceleratedTracer, scene, training=False))
    # A chord at a depth below the threshold may be shorter than the shortest step.
    grazing = smallest_f(scene).abs() <= CONFIG.sdf_threshold * scene.radius
    assert not (wrong(scene, marched(scene)) & ~in_evaluation & ~grazing).any()
