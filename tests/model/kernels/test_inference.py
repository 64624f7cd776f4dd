"""Networks where nothing is differentiated by weights: the same numbers, in parts, in borrowed memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.networks import implicit_network, roughen
from torch import Tensor

from idr.model.implicit_network import ImplicitNetwork
from idr.model.kernels import inference

DOUBLE = torch.float64
SHAPES: dict[str, dict[str, Any]] = {
    "a skip": {"dims": (24, 20, 24), "skip_in": (2,), "multires": 1},
    "skips, one into the last layer": {"dims": (24, 20, 24), "skip_in": (1, 3), "multires": 1},
    "two skips in a row": {"dims": (24, 20, 24), "skip_in": (1, 2), "multires": 1},
    "plain": {"dims": (16, 8), "skip_in": (), "multires": 0, "weight_norm": False},
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "POINTS_AT_ONCE", 7)
    monkeypatch.setattr(inference, "POINTS_WITH_GRADIENT", 5)


def network(shape: str, dtype: torch.dtype = DOUBLE) -> ImplicitNetwork:
    made = implicit_network(features=3, bias=0.6, **SHAPES[shape])
    roughen(made, 0.2, seed=1)
    return made.to(dtype).eval()


def points(num: int) -> Tensor:
    return 2 * torch.rand(num, 3, generator=torch.Generator().manual_seed(num), dtype=DOUBLE) - 1


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num", [0, 1, 7, 8, 33])
def test_the_numbers_are_those_of_autograd(
    shape: str, num: int, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    made, x = network(shape), points(num)
    expected = made.sdf(x), *made.value_and_gradient(x), *made.sdf_and_gradient(x)
    with torch.no_grad():
        found = made.sdf(x), *made.value_and_gradient(x), *made.sdf_and_gradient(x)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.requires_grad and not ours.requires_grad
        assert ours.shape == theirs.shape
        # torch takes softplus as linear where exp(-beta z) is below exp(-20): 2e-11 of it remain, over beta.
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-9)


def test_no_result_lies_in_memory_that_is_used_again() -> None:
    made, x = network("a skip"), points(33)
    with torch.no_grad():
        found = made.sdf(x), *made.value_and_gradient(x)
        kept = [result.clone() for result in found]
        made.sdf(-x), made.value_and_gradient(-x)
    assert all(torch.equal(*pair) for pair in zip(found, kept, strict=True))


def test_memory_does_not_grow_with_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    made, taken = network("a skip"), []
    take = inference._Scratch.take

    def counting(scratch: Any, *given: Any) -> Tensor:
        found = take(scratch, *given)
        taken.append(found.untyped_storage().data_ptr())
        return found

    monkeypatch.setattr(inference._Scratch, "take", counting)
    numbers = []
    for num in (14, 70):
        taken.clear()
        with torch.no_grad():
            made.sdf(points(num))
        numbers.append((len(taken), len(set(taken))))
    assert numbers == [(2 * 6, 3), (10 * 6, 3)]  # a part: two for each of three layers, one of them a skip's


def test_autocast_is_heeded() -> None:
    made, x = network("a skip", torch.float32), points(9).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert made.sdf(x).dtype == torch.bfloat16
