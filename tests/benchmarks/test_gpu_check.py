"""`benchmarks/gpu_check.py` on the CPU, with small networks."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import idr.model.tracing.accelerated.network_search as network_search
from idr.errors import TrainingStoppedError
from tests.parity import golden

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = [f"model.implicit_network.{key}" for key in ("dims=[64,64,64]", "skip_in=[2]")]
CPU = torch.device("cpu")


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


@pytest.fixture
def arguments() -> argparse.Namespace:
    conf = "./confs/dtu_fixed_cameras.conf"
    return argparse.Namespace(
        conf=conf, overrides=SMALL, rays=600, steps=3, device="cpu", strategies=["accelerated"]
    )


def test_parity_reports_violations(gpu_check, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden.arrays
    monkeypatch.setattr(golden, "NAMES", ("a",))
    assert gpu_check.parity(CPU) == ([], [])
    assert golden.arrays is arrays

    def altered(*names: str) -> dict[str, torch.Tensor]:
        return {key: value * 1.01 if key == "net.out" else value for key, value in arrays(*names).items()}

    monkeypatch.setattr(golden, "arrays", altered)
    missed, rounded = gpu_check.parity(CPU)
    assert not rounded
    assert missed and missed[0].startswith("networks of a: ")


@pytest.mark.parametrize(("factor", "is_rounding"), [(1.004, True), (1.1, False)])
def test_only_small_gradient_errors_count_as_rounding(
    gpu_check, monkeypatch: pytest.MonkeyPatch, factor: float, is_rounding: bool
) -> None:
    arrays = golden.arrays
    monkeypatch.setattr(golden, "NAMES", ("a",))

    def altered(*names: str) -> dict[str, torch.Tensor]:
        name = "train.grad.implicit_network.lin1.bias"
        return {key: value * factor if key == name else value for key, value in arrays(*names).items()}

    monkeypatch.setattr(golden, "arrays", altered)
    missed, rounded = gpu_check.parity(CPU)
    assert (len(missed), len(rounded)) == ((0, 1) if is_rounding else (1, 0))
    assert "lin1.bias" in (missed + rounded)[0]


def test_reads_per_step_are_bounded(gpu_check, arguments: argparse.Namespace, reads_cost: None) -> None:
    steps = gpu_check.Steps("accelerated", arguments, CPU)
    steps.optimizer = torch.optim.SGD(steps.model.parameters(), lr=0.0)  # the grid stays valid
    steps.step()
    reads = steps.reads(3)
    assert reads["steps"] == 3 and 2 <= reads["most"] <= gpu_check.MAX_READS, reads


@pytest.mark.parametrize("strategy", ["accelerated", "published"])
def test_reads_do_not_grow_with_unresolved_rays(
    gpu_check,
    arguments: argparse.Namespace,
    reads_cost: None,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
) -> None:
    trace = network_search.NetworkSearch.trace

    def leaves_all_open(*arguments):
        found = trace(*arguments)
        return replace(found, resolved=torch.zeros_like(found.resolved))

    monkeypatch.setattr(network_search.NetworkSearch, "trace", leaves_all_open)
    arguments.rays = 2048
    steps = gpu_check.Steps(strategy, arguments, CPU)
    steps.optimizer = torch.optim.SGD(steps.model.parameters(), lr=0.0)  # the grid stays valid
    steps.step()
    reads = steps.reads(2)
    assert reads["steps"] == 2 and 2 <= reads["most"] <= gpu_check.MAX_READS, reads


def test_a_failure_is_reported_and_raised(gpu_check, capsys: pytest.CaptureFixture[str]) -> None:
    good = {
        "device": "cpu", "torch": "2", "missed": [], "rounded": [], "seconds": {"accelerated": 0.1},
        "reads": {"steps": 3, "most": 2, "places": ["nonzero at x.py:1"], "watched": 0},
        "difference": None, "kernels": [],
    }  # fmt: skip
    gpu_check.report(good)
    printed = capsys.readouterr().out
    assert "all arrays within their tolerances" in printed and "do not run on this device" in printed
    row = {"backend": "triton", "error": 1e-6, "hits": 0.0, "field": 1.5, "forward": 2.5, "step": 12.5}
    gpu_check.report({**good, "kernels": [row]})
    assert capsys.readouterr().out.splitlines()[-1].split() == [
        "triton", "1.0e-06", "0.00%", "1.50", "2.50", "12.50"
    ]  # fmt: skip
    bad_rows = ({**row, "error": 0.1}, {**row, "hits": 0.1})
    for bad in (
        {"missed": ["networks of a: f"]},
        {"reads": {**good["reads"], "most": 9}},
        {"difference": 0.1},
        {"difference": float("nan")},
        *({"kernels": [row]} for row in bad_rows),
    ):
        with pytest.raises(TrainingStoppedError):
            gpu_check.report({**good, **bad})


def test_kernels_are_compared_with_plain_torch(
    gpu_check, arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With numba's loops in place of Triton's, which compute the same on a CPU."""
    monkeypatch.setattr(gpu_check, "BACKENDS", ("torch", "numba"))
    monkeypatch.setattr(gpu_check, "find_kernel", lambda name: SimpleNamespace(runs_on=lambda device: True))
    arguments.rays, arguments.steps = 200, 1
    rows = gpu_check.kernels(arguments, CPU)
    assert [row["backend"] for row in rows] == ["torch", "numba"]
    for row in rows:
        assert row["error"] <= gpu_check.MAX_ERROR and row["hits"] <= gpu_check.MAX_OTHER_HITS, row
        assert min(row["field"], row["forward"], row["step"]) > 0
    monkeypatch.setattr(gpu_check, "find_kernel", lambda name: None)
    assert gpu_check.kernels(arguments, CPU) == []


def test_all_checks_run(gpu_check, arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "NAMES", ())
    monkeypatch.setattr(gpu_check, "find_kernel", lambda name: None)
    result = gpu_check.measure(arguments)
    assert result["seconds"]["accelerated"] > 0 and result["missed"] == [] and "places" in result["reads"]


def test_captured_steps_are_compared(gpu_check, arguments) -> None:
    arguments.rays, arguments.steps = 60, 1
    seconds, difference = gpu_check.captured(arguments, CPU)  # without graphs both are run
    assert list(seconds) == ["fixed", "fixed, captured"] and min(seconds.values()) > 0 and difference == 0
