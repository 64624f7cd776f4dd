"""The hash grid in plain torch and compiled, with both derivatives, against a loop over points."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from idr.model.encodings import make_encoding
from idr.model.encodings.hashgrid import HashGrid

DOUBLE = torch.float64
BLOCK = {
    "type": "hashgrid", "levels": 4, "features": 2, "log2_table": 6, "base_resolution": 2,
    "finest_resolution": 16, "bound": 1.25,
}  # fmt: skip
BACKENDS = ("torch", "numba")


def grid(backend: str = "torch", **changes: Any) -> HashGrid:
    """A small grid with features of order one; level 0 is dense, the others are hashed."""
    encoding = make_encoding({**BLOCK, "backend": backend, **changes}, "encoding")
    assert isinstance(encoding, HashGrid)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    return encoding


def points(num: int, dtype: torch.dtype = torch.float32, reach: float = 1.2) -> Tensor:
    generator = torch.Generator().manual_seed(num)
    return reach * (2 * torch.rand(num, 3, generator=generator, dtype=dtype) - 1)


def slow_features(x: list[float], encoding: HashGrid, log2_table: int, finest: int) -> list[float]:
    """Features of one point, in plain Python, from the text of the paper."""
    config, table, result, first = encoding.config, encoding.table.tolist(), [], 0
    growth = math.exp((math.log(finest) - math.log(config.base_resolution)) / (config.levels - 1))
    for level in range(config.levels):
        cells = int(config.base_resolution * growth**level + 1e-6)
        dense = (cells + 1) ** 3 <= 2**log2_table
        inside = [min(max(value, -config.bound), config.bound) for value in x]
        place = [(value + config.bound) / (2 * config.bound) * cells for value in inside]
        cell = [min(int(value), cells - 1) for value in place]
        total = [0.0] * config.features
        for corner in itertools.product((0, 1), repeat=3):
            i, j, k = (c + d for c, d in zip(cell, corner, strict=True))
            if dense:
                row = i + (cells + 1) * (j + (cells + 1) * k)
            else:
                row = (i ^ (j * 2654435761 % 2**32) ^ (k * 805459861 % 2**32)) % 2**log2_table
            weight = 1.0
            for p, c, d in zip(place, cell, corner, strict=True):
                weight *= p - c if d else 1 - (p - c)
            total = [t + weight * f for t, f in zip(total, table[first + row], strict=True)]
        result += total
        first += (cells + 1) ** 3 if dense else 2**log2_table
    return result


@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_loop(backend: str, features: int) -> None:
    encoding = grid(backend, features=features)
    assert [level.dense for level in encoding.grids] == [True, False, False, False]
    assert [level.resolution for level in encoding.grids] == [2, 4, 8, 16]
    x = torch.cat((points(40, reach=1.6), torch.tensor([[1.25, -1.25, 1.25], [0.0, 0.625, -1.25]])))
    encoded = encoding(x)
    assert encoded.shape == (42, 3 + 4 * features) and encoding.width == 3 + 4 * features
    assert torch.equal(encoded[:, :3], x)
    slow = torch.tensor([slow_features(row, encoding, 6, 16) for row in x.tolist()])
    assert (encoded[:, 3:] - slow).abs().max() < 1e-5  # float32: positions up to 16 have errors of 1e-6


def test_gradcheck_of_plain_torch() -> None:
    encoding = grid(levels=2, log2_table=4).double()
    x = points(5, DOUBLE).requires_grad_(True)
    table = encoding.table.detach().clone().requires_grad_(True)

    def encode(x: Tensor, table: Tensor) -> Tensor:
        return torch.func.functional_call(encoding, {"table": table}, (x,))

    assert torch.autograd.gradcheck(encode, (x, table))
    assert torch.autograd.gradgradcheck(encode, (x, table))


def all_derivatives(encoding: HashGrid, x: Tensor) -> list[Tensor]:
    """Values, both gradients, and the gradients of a function of both gradients."""
    x = x.clone().requires_grad_(True)
    encoded = encoding(x)
    output_gradient = (
        torch.linspace(-1, 1, encoded.numel(), dtype=x.dtype).view_as(encoded).requires_grad_(True)
    )
    firsts = torch.autograd.grad(encoded, (x, encoding.table), output_gradient, create_graph=True)
    function = firsts[0].pow(2).sum() + firsts[1].pow(2).sum() + encoded.pow(2).sum()
    seconds = torch.autograd.grad(function, (x, encoding.table, output_gradient))
    return [encoded.detach(), *(first.detach() for first in firsts), *seconds]


@pytest.mark.parametrize("features", [1, 2, 3])
@pytest.mark.parametrize("open_levels", [4.0, 2.3])
def test_compiled_derivatives_equal_those_of_torch(features: int, open_levels: float) -> None:
    compiled, oracle = grid("numba", features=features), grid(features=features)
    compiled.open_levels = oracle.open_levels = open_levels
    x = points(300, reach=1.5)
    ours, theirs = all_derivatives(compiled, x), all_derivatives(oracle, x)
    for name, one, two in zip(("value", "x", "T", "x'", "T'", "dy'"), ours, theirs, strict=True):
        assert (one - two).abs().max() <= 2e-6 * two.abs().max(), (
            name
        )  # sums of hundreds of numbers in another order


def test_compiled_sums_are_bit_equal_for_any_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(all_derivatives(grid("numba", features=2), points(5000)))
    finally:
        torch.set_num_threads(before)
    for one, two, three in zip(*results, strict=True):
        assert torch.equal(one, two) and torch.equal(two, three)


def test_the_gradient_by_points_does_not_compute_that_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from idr.model.kernels import hashgrid_loops

    encoding, x = grid("numba"), points(10).requires_grad_(True)
    encoded = encoding(x)
    monkeypatch.setattr(hashgrid_loops, "table_gradient", None)  # fails if it is called
    (slope,) = torch.autograd.grad(encoded.sum(), x, create_graph=True)
    assert slope.requires_grad and slope.abs().min() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_closed_levels_are_zero_and_get_no_gradient(backend: str) -> None:
    encoding, x = grid(backend), points(50)
    whole = encoding(x).detach()
    encoding.open_levels = 1.5
    half = encoding(x)
    assert torch.equal(half[:, :5], whole[:, :5])
    weight = (1 - math.cos(math.pi / 2)) / 2
    assert torch.allclose(half[:, 5:7], weight * whole[:, 5:7], rtol=1e-6)
    assert not half[:, 7:].any() and half.shape == whole.shape
    half.sum().backward()
    first_closed = encoding.grids[2].offset
    assert encoding.table.grad is not None
    assert encoding.table.grad[:first_closed].any() and not encoding.table.grad[first_closed:].any()
    encoding.open_levels = 0.0
    assert torch.equal(encoding(x)[:, :3], x) and not encoding(x)[:, 3:].any()


def test_spacing_follows_the_finest_open_level() -> None:
    """The grids have 2, 4, 8 and 16 cells over 2.5."""
    encoding = grid()
    for open_levels, cells in ((0.0, 2), (0.4, 2), (1.0, 2), (2.0, 4), (3.0, 8), (4.0, 16), (9.0, 16)):
        encoding.open_levels = open_levels
        assert encoding.spacing() == 2.5 / cells
    for open_levels in (1.25, 2.5, 3.999):  # geometric between levels
        encoding.open_levels = open_levels
        assert encoding.spacing() == pytest.approx(2.5 / 2**open_levels, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_points_and_nan(backend: str) -> None:
    encoding = grid(backend)
    assert encoding(torch.zeros(0, 3)).shape == (0, 11)
    assert encoding(torch.full((1, 3), math.nan)).isnan().all()


def test_the_backend_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    from idr.model.encodings import hashgrid

    hashgrid._log_once.cache_clear()
    encoding = grid("auto")
    with caplog.at_level("DEBUG", logger="idr"):
        encoding(points(3))
        encoding(points(3))
        encoding.double()(points(3, DOUBLE))
    assert [record.message for record in caplog.records] == [
        "hash grid: computed by numba (CPU, float32)",
        "hash grid: computed by torch (cpu, torch.float64)",
    ]


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    from idr.model.encodings import hashgrid

    monkeypatch.setattr(hashgrid, "find_kernel", lambda name: None)
    assert torch.equal(grid("auto")(points(9)), grid("torch")(points(9)))
    with pytest.raises(
        ValueError, match=r"backend = numba: numba is not installed or .*: pip install 'idr-surface\[fast\]'"
    ):
        grid("numba")


def test_numba_with_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backend = numba: points are torch.float64 on cpu"):
        grid("numba").double()(points(3, DOUBLE))


def test_the_state_dict_contains_only_the_table() -> None:
    encoding = grid()
    encoding.open_levels = 2.0
    assert list(encoding.state_dict()) == ["table"]
