"""What all tracers share: evaluating f at some rays, and the settings."""

from __future__ import annotations

import pytest
import torch

from idr.errors import InputError
from idr.model.tracing import AcceleratedTracer, PublishedTracer, TracerConfig, make_tracer
from idr.model.tracing import common as tracing_common
from idr.model.tracing.common import evaluate_in_chunks, evaluate_where

DOUBLE = torch.float64


def ball(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=1) - 0.5


# --- evaluating f at some rays ------------------------------------------------------------------------------


class Elsewhere(torch.Tensor):
    """A tensor that claims to lie on an accelerator, to see the path taken there."""

    device = property(lambda self: torch.device("meta"))


@pytest.mark.parametrize("active", [[True, False, True], [False, False, False], [True, True, True]])
def test_evaluating_some_rays_on_either_path(active: list[bool]) -> None:
    points = torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor(active)
    here = evaluate_where(ball, points, chosen)
    there = evaluate_where(lambda x: ball(x.as_subclass(torch.Tensor)), points.as_subclass(Elsewhere), chosen)
    expected = [ball(points[k : k + 1]).item() if active[k] else 0.0 for k in range(3)]
    assert here.tolist() == there.as_subclass(torch.Tensor).tolist() == expected


def test_chunks_bound_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_common, "MAX_POINTS_AT_ONCE", 4)
    sizes = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.shape[0])
        return ball(x)

    points = torch.randn(10, 3, dtype=DOUBLE)
    assert torch.equal(evaluate_in_chunks(counted, points), ball(points))
    assert sizes == [4, 4, 2]


# --- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"strategy": "fast"},
            r"model.ray_tracer.strategy = fast: expected one of accelerated, compiled, published",
        ),
        ({"object_bounding_sphere": 0.0}, "object_bounding_sphere = 0.0: expected a radius above 0"),
        ({"n_steps": 1}, "n_steps = 1: expected at least 2 samples a ray"),
        ({"line_step_iters": -1}, "line_step_iters = -1: expected 0 or more"),
        ({"n_secant_steps": -1}, "n_secant_steps = -1: expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TracerConfig(**({"object_bounding_sphere": 1.0} | keys))


def test_published_defaults() -> None:
    config = TracerConfig(1.0)
    assert (config.sdf_threshold, config.line_search_step, config.line_step_iters) == (5e-5, 0.5, 1)
    assert (config.sphere_tracing_iters, config.n_steps, config.n_secant_steps) == (10, 100, 8)
    assert isinstance(make_tracer(config), AcceleratedTracer)
    assert isinstance(make_tracer(TracerConfig(1.0, strategy="published")), PublishedTracer)
