"""What all tracers share: evaluating f for some of the rays, requests, and settings."""

from __future__ import annotations

import logging

import pytest
import torch

from idr.errors import InputError
from idr.geometry.spheres import SphereCrossing
from idr.model.tracing import (
    AcceleratedTracer,
    PublishedTracer,
    Rays,
    TracerConfig,
    TraceRequest,
    make_tracer,
    read_tracer_config,
)
from idr.model.tracing import common as tracing_common
from idr.model.tracing.common import evaluate_in_chunks, evaluate_where, first_true_indices

DOUBLE = torch.float64


def ball(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=1) - 0.5


# --- evaluating f for some of the rays ----------------------------------------------------------------------


class OnAccelerator(torch.Tensor):
    """A tensor that claims to be on an accelerator, to run the code for one."""

    device = property(lambda self: torch.device("meta"))


@pytest.mark.parametrize("active", [[True, False, True], [False, False, False], [True, True, True]])
def test_cpu_and_accelerator_evaluate_active_rays(active: list[bool]) -> None:
    points = torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    flags = torch.tensor(active)
    on_cpu = evaluate_where(ball, points, flags)
    elsewhere = evaluate_where(
        lambda x: ball(x.as_subclass(torch.Tensor)), points.as_subclass(OnAccelerator), flags
    )
    expected = [ball(points[k : k + 1]).item() if active[k] else 0.0 for k in range(3)]
    assert on_cpu.tolist() == elsewhere.as_subclass(torch.Tensor).tolist() == expected


def test_chunks_bound_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_common, "MAX_POINTS_AT_ONCE", 4)
    sizes = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.shape[0])
        return ball(x)

    points = torch.randn(10, 3, dtype=DOUBLE)
    assert torch.equal(evaluate_in_chunks(counted, points), ball(points))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, [1, 4]), (3, [1, 4, 5]), (5, [1, 4, 5, 6, 6])])
def test_first_true_indices_are_padded(count: int, expected: list[int]) -> None:
    flags = torch.tensor([False, True, False, False, True, True])
    assert first_true_indices(flags, count).tolist() == expected


# --- requests -----------------------------------------------------------------------------------------------


def test_requests_name_their_mode_and_have_subsets() -> None:
    rays = Rays(torch.arange(12.0).reshape(4, 3), torch.eye(4)[:, :3])
    crossing = SphereCrossing(torch.arange(4.0), torch.arange(4.0) + 1, torch.tensor([1, 1, 0, 1]) > 0)
    mask = torch.tensor([True, False, False, True])
    trained = TraceRequest.for_training(ball, rays, crossing, mask, torch.tensor([0.25, 0.75]))
    rendered = TraceRequest.for_evaluation(ball, rays, crossing, version="weights")
    assert trained.training and not rendered.training and rendered.version == "weights"
    part = trained.subset(torch.tensor([3, 1]))
    assert part.training and torch.equal(part.search_fractions, trained.search_fractions)
    assert torch.equal(part.rays.origin, rays.origin[[3, 1]])
    assert part.crossing.far.tolist() == [4, 2] and part.object_mask.tolist() == [True, False]


# --- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"strategy": "fast"},
            r"model.ray_tracer.strategy = fast: expected one of accelerated, compiled, fixed, published",
        ),
        ({"object_bounding_sphere": 0.0}, "object_bounding_sphere = 0.0: expected a radius above 0"),
        ({"n_steps": 1}, "n_steps = 1: expected at least 2 samples a ray"),
        ({"line_step_iters": -1}, "line_step_iters = -1: expected 0 or more"),
        ({"n_secant_steps": -1}, "n_secant_steps = -1: expected 0 or more"),
        (
            {"precision": "bf16"},
            "precision = bf16: the key was removed, since no measurement showed a benefit",
        ),
        ({"precision": "tf32"}, "precision = tf32: .* remove the key"),
    ],
)
def test_settings_out_of_range_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tracer_config({"object_bounding_sphere": 1.0} | keys)


def test_the_removed_precision_is_ignored_with_a_warning_if_it_is_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="idr"):
        config = read_tracer_config({"object_bounding_sphere": 1.0, "precision": "float32"})
        assert config == TracerConfig(1.0)
        read_tracer_config({"object_bounding_sphere": 1.0})
    (message,) = (record.message for record in caplog.records)
    assert "model.ray_tracer.precision was removed" in message and message.endswith("remove the key")


def test_published_defaults() -> None:
    config = TracerConfig(1.0)
    assert (config.sdf_threshold, config.line_search_step, config.line_step_iters) == (5e-5, 0.5, 1)
    assert (config.sphere_tracing_iters, config.n_steps, config.n_secant_steps) == (10, 100, 8)
    assert isinstance(make_tracer(config), AcceleratedTracer)
    assert isinstance(make_tracer(TracerConfig(1.0, strategy="published")), PublishedTracer)
