"""Evaluations of f that the accelerated tracer takes on trained networks, grids included."""

from __future__ import annotations

import pytest
import torch
from tests.model.exact_shapes import DOUBLE, Ball, crossing_of, rays_at, trace_request
from tests.model.networks import camera_input
from tests.model.tracing.test_contract import HEIGHT, NAMES, WIDTH, Counter, network, rendered, traced
from tests.parity import golden
from torch import Tensor

from idr.model.tracing import AcceleratedTracer, TracerConfig
from idr.model.tracing.accelerated.grid_tracking import TRACKING

GRID = 17**3


@pytest.mark.parametrize("name", NAMES)
def test_rendering(name: str) -> None:
    image, points = rendered(name, "accelerated")
    grid = traced(name, "accelerated", "evaluation")[1]
    assert GRID < grid < points  # tracing alone, then with shading
    assert points - image.hit.sum() < grid * 1.01  # shading evaluates each hit once
    build = Counter(model := network(name, "accelerated").eval())
    with torch.no_grad():
        model._trace(torch.zeros(1, 3), torch.zeros(1, 0, 3), torch.zeros(0, dtype=torch.bool), None)
    assert points - build.points <= 4 * image.hit.sum() + 1.5 * image.hit.numel()


@pytest.mark.parametrize("name", golden.NAMES)
def test_training_view(name: str) -> None:
    """A step with the rays of a whole view takes 4.6 to 5.4 evaluations a ray, the published tracer 87 to
    109.

    That includes the grid's build. Two of them are for the minima of rays that miss, which only a new grid
    samples; outside the mask, where a quarter of the rays hit, 1.2 more are for the minima behind hits.
    """
    for mode, most in (("training inside", 5.5), ("training outside", 6.7)):
        assert traced(name, "accelerated", mode)[1] < most * HEIGHT * WIDTH
    assert traced(name, "published", "training outside")[1] > 70 * HEIGHT * WIDTH


@pytest.mark.parametrize(("ripple", "most"), [(0.0, 2.7), (0.005, 2.9)])
def test_a_hit_in_training(ripple: float, most: float) -> None:
    """Rays that meet a smooth or a rippled ball well inside its outline, with the grid built before.

    The published tracer takes 9 and 14 evaluations a ray.
    """
    seen = []

    def sdf(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return Ball().sdf(x) + ripple * torch.sin(16 * x[:, 0]) * torch.cos(16 * x[:, 1] + 8 * x[:, 2])

    rays = rays_at(2000, 3, spread=0.2)
    inside = torch.ones(2000, dtype=torch.bool)
    request = trace_request(sdf, rays, crossing_of(rays, 1.0), inside, torch.rand(100, dtype=DOUBLE))
    tracer = AcceleratedTracer(TracerConfig(1.0, line_step_iters=3))
    tracer.trace(request)
    seen.clear()
    result = tracer.trace(request)
    assert result.hit.all()
    assert sum(seen) - TRACKING.near_probes - TRACKING.far_probes <= most * 2000
    assert sdf(rays.at(result.depth)).abs().max() <= 1e-5


def test_the_published_tracer_builds_no_grid() -> None:
    model = network("a", "published").train()
    counter = Counter(model)
    model(camera_input(num_pixels=0))
    assert counter.points == 0 and model.tracer_state() is None
