"""Hits outside the mask end at the smallest f behind them, also by a grid that has aged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idr.fields.sdf_grid import Sdf
from idr.model.tracing import Rays, Tracer, TracerConfig, make_tracer
from idr.model.tracing import common as tracing_common
from tests.model.exact_shapes import DOUBLE, Ball, crossing_of

NUM_RAYS = 6000
DRAWS = torch.rand(100, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)


def rays_at_the_rim() -> Rays:
    """Rays past a ball of radius 0.5; one in sixteen meets it, at most 0.03 within its outline."""
    generator = torch.Generator().manual_seed(0)
    x, y, z = torch.rand(3, NUM_RAYS, generator=generator, dtype=DOUBLE)
    angle, offset = 6.283 * x, 0.47 + 0.48 * y
    origin = torch.stack((offset * angle.cos(), offset * angle.sin(), -2 + 0.02 * z), dim=1)
    direction = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE).expand(NUM_RAYS, 3)
    return Rays(origin, direction)


def wavy(amplitude: float) -> Sdf:
    """A ball's distance, and waves that no quadratic of the position follows."""
    return lambda x: Ball().sdf(x) + amplitude * torch.sin(24 * x[:, 2] + 3 * x[:, 0])


def step(tracer: Tracer, sdf: Sdf) -> tuple[Tensor, Tensor]:
    """Traces all rays as outside of the mask; returns which hit, and f where they end."""
    rays, outside = rays_at_the_rim(), torch.zeros(NUM_RAYS, dtype=torch.bool)
    found = tracer.trace(sdf, rays, crossing_of(rays, 1.0), outside, DRAWS)
    return found.hit, sdf(rays.at(found.depth))


@pytest.mark.parametrize("reads_cost", [False, True])
def test_an_aged_grid_finds_the_smallest_f_behind_a_hit(
    reads_cost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reads_cost:
        monkeypatch.setattr(tracing_common, "FREE_READS", frozenset())
    tracer = make_tracer(TracerConfig(1.0))
    step(tracer, wavy(0.0))  # builds the grid
    ours_hit, ours = step(tracer, wavy(0.008))
    published_hit, published = step(make_tracer(TracerConfig(1.0, strategy="published")), wavy(0.008))
    both = ours_hit & published_hit
    excess = (ours - published)[both]  # by the grid alone 0.007 on one ray in a hundred
    assert both.sum() > 300 and (published[both] > -0.01).sum() > 80
    assert excess.quantile(0.99) < 2e-3 and excess.mean() < 2e-4
    assert (ours[both] > 1e-4).sum() == 0
