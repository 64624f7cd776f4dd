"""Tracing in bfloat16 and TF32: the float32 hits by arithmetic that is truly cheaper; who may ask for it."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.model.tracing import test_contract as contract

from idr.errors import InputError
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.tracing import CheapTracer, TraceResult, make_tracer, precision

NAMES = ("a", "b", "c", "demo")


@pytest.fixture
def all_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden networks' batches are small: without this, many would be evaluated in float32 outright."""
    monkeypatch.setattr(precision, "FEW_POINTS", 0)


def in_bf16(name: str, strategy: str) -> IDRNetwork:
    model = contract.network(name, strategy).eval()
    model.ray_tracer = make_tracer(replace(model.tracer_config, precision="bf16"))
    return model


def traced(name: str, strategy: str) -> TraceResult:
    directions, centers = contract.view_rays(name)
    mask = torch.ones(directions.shape[1], dtype=torch.bool)
    return in_bf16(name, strategy)._trace(centers, directions, mask, None)


def differences(name: str, strategy: str) -> tuple[float, float]:
    """Shares of rays whose hits differ, and of common hits off in depth and in f."""
    ours, theirs = traced(name, strategy), contract.traced(name, strategy, "evaluation")[0]
    values, _ = contract.values_at(name, ours)
    both = ours.hit & theirs.hit
    off = ((ours.depth - theirs.depth).abs() > 1e-3) & (values.abs() > 1e-4)
    assert both.sum() > 900
    return float((ours.hit != theirs.hit).float().mean()), float(off[both].float().mean())


@pytest.mark.parametrize("strategy", ["accelerated", "published"])
@pytest.mark.parametrize("name", NAMES)
def test_hits_are_those_of_float32(name: str, strategy: str, all_cheap: None) -> None:
    hits, depths = differences(name, strategy)
    assert hits <= 1e-3 and depths <= 1e-3


@pytest.mark.parametrize("strategy", ["accelerated", "published"])
def test_so_are_they_where_reads_cost(strategy: str, all_cheap: None, reads_cost: None) -> None:
    hits, depths = differences("b", strategy)
    assert hits <= 1e-3 and depths <= 1e-3


def test_without_its_checks_bfloat16_is_not_enough(monkeypatch: pytest.MonkeyPatch, all_cheap: None) -> None:
    monkeypatch.setattr(precision, "MARGIN", 0.0)
    monkeypatch.setattr(precision, "ON_SURFACE", torch.inf)
    hits, depths = differences("b", "published")
    assert hits > 1e-3 and depths > 1e-3


def test_the_final_check_alone_puts_hits_on_the_surface(
    monkeypatch: pytest.MonkeyPatch, all_cheap: None
) -> None:
    monkeypatch.setattr(precision, "MARGIN", 0.0)
    found = traced("b", "published")
    values, _ = contract.values_at("b", found)
    # What the published tracer returns in float32: it evaluates no last depth, see its refinement.
    assert values[found.hit].abs().quantile(0.999) <= 1e-4


def test_where_there_is_no_room_all_is_traced_again(
    monkeypatch: pytest.MonkeyPatch, all_cheap: None, reads_cost: None
) -> None:
    monkeypatch.setattr(precision, "NEAR_SHARE", 10**9)
    ours, theirs = traced("a", "accelerated"), contract.traced("a", "published", "evaluation")[0]
    assert torch.equal(ours.hit, theirs.hit)
    assert (ours.depth - theirs.depth)[ours.hit].abs().max() <= 1e-4  # other batches round otherwise


def test_training_goes_on_as_in_float32(all_cheap: None) -> None:
    arrays = contract.golden.arrays("b")
    sample = {
        name: arrays[f"eval0.in.{name}"] for name in ("uv", "intrinsics", "pose", "object_mask")
    }  # fmt: skip
    losses = []
    for chosen in ("float32", "bf16"):
        model = contract.network("b", "accelerated")
        model.ray_tracer = make_tracer(replace(model.tracer_config, precision=chosen))
        optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-5)
        for step in range(4):
            outputs = model({**sample, "generator": torch.Generator().manual_seed(step)})
            loss = (
                outputs["rgb_values"].abs().mean() + (outputs["grad_theta"].norm(dim=1) - 1).square().mean()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
        assert outputs["rgb_values"].dtype == outputs["sdf_output"].dtype == torch.float32
        assert model.tracer_state() is not None  # the grid inside goes into checkpoints as ever
        model.load_tracer_state(model.tracer_state(), "x")
    assert losses[0] != losses[1]  # the points differ within the threshold
    # Every step's values correct the grid, and the grid says where rays without a hit end.
    assert losses[0] == pytest.approx(losses[1], rel=5e-4)


def test_a_cpu_is_said_to_be_slow_once(caplog: pytest.LogCaptureFixture) -> None:
    model = in_bf16("a", "accelerated")
    directions, centers = contract.view_rays("a")
    mask = torch.ones(directions.shape[1], dtype=torch.bool)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model._trace(centers, directions, mask, None)
    assert [record.message for record in caplog.records if "slower than float32" in record.message] == [
        "model.ray_tracer.precision = bf16 on a CPU: same hits, but slower than float32 on most CPUs"
    ]


def test_float32_is_not_wrapped() -> None:
    config = contract.network("a", "accelerated").tracer_config
    assert config.precision == "float32" and not isinstance(make_tracer(config), CheapTracer)


@pytest.mark.parametrize(("capability", "has_it"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_needs_a_device_that_has_it(
    capability: tuple[int, int], has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = torch.device("xpu")
    monkeypatch.setattr(
        torch, "xpu", SimpleNamespace(get_device_capability=lambda device: capability), raising=False
    )
    precision.check_precision("bf16", torch.device("cpu"))
    if has_it:
        precision.check_precision("tf32", there)
    else:
        with pytest.raises(InputError, match="tf32: xpu has no TF32; expected an NVIDIA GPU"):
            precision.check_precision("tf32", there)


def test_tf32_is_on_inside_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), precision.cheaper("tf32", torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "high"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before == "highest"
    with precision.cheaper("bf16", torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
