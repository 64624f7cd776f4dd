"""Networks without derivatives by their weights: the numbers of autograd, in chunks that share memory."""

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
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CHUNK", 7)
    monkeypatch.setattr(inference, "CHUNK_WITH_GRADIENT", 5)


def network(shape: str, dtype: torch.dtype = DOUBLE) -> ImplicitNetwork:
    made = implicit_network(features=3, bias=0.6, **SHAPES[shape])
    roughen(made, 0.2, seed=1)
    return made.to(dtype).eval()


def points(num: int) -> Tensor:
    return 2 * torch.rand(num, 3, generator=torch.Generator().manual_seed(num), dtype=DOUBLE) - 1


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num", [0, 1, 7, 8, 33])
def test_equals_autograd(shape: str, num: int, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    made, x = network(shape), points(num)
    expected = made.sdf(x), *made.value_and_gradient(x), *made.sdf_and_gradient(x)
    with torch.no_grad():
        found = made.sdf(x), *made.value_and_gradient(x), *made.sdf_and_gradient(x)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.requires_grad and not ours.requires_grad
        assert ours.shape == theirs.shape
        # torch's softplus is linear where exp(-beta z) is below exp(-20): an error of 2e-11, over beta.
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-9)


def test_results_do_not_share_memory_with_later_calls() -> None:
    made, x = network("a skip"), points(33)
    with torch.no_grad():
        found = made.sdf(x), *made.value_and_gradient(x)
        kept = [result.clone() for result in found]
        made.sdf(-x), made.value_and_gradient(-x)
    assert all(torch.equal(*pair) for pair in zip(found, kept, strict=True))


def test_memory_does_not_grow_with_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    made, addresses = network("a skip"), []
    tensor = inference._Scratch.tensor

    def counting(*arguments: Any) -> Tensor:
        memory = tensor(*arguments)
        addresses.append(memory.untyped_storage().data_ptr())
        return memory

    monkeypatch.setattr(inference._Scratch, "tensor", counting)
    counts = []
    for num in (14, 70):
        addresses.clear()
        with torch.no_grad():
            made.sdf(points(num))
        counts.append((len(addresses), len(set(addresses))))
    assert counts == [
        (2 * 6, 3),
        (10 * 6, 3),
    ]  # a chunk: two for each of three layers


def test_autocast_applies() -> None:
    made, x = network("a skip", torch.float32), points(9).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert made.sdf(x).dtype == torch.bfloat16
