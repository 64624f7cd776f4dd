"""The positional encoding against a loop over numbers."""

from __future__ import annotations

import math

import pytest
import torch

from idr.model.embedder import encoded_width, positional_encoding


def slow_encoding(vector: list[float], octaves: int) -> list[float]:
    """[x, sin(2^0 x), cos(2^0 x), ..., sin(2^(L-1) x), cos(2^(L-1) x)] of one vector."""
    numbers = list(vector)
    for k in range(octaves):
        numbers += [math.sin(2**k * x) for x in vector]
        numbers += [math.cos(2**k * x) for x in vector]
    return numbers


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("octaves", [0, 1, 4, 6])
def test_encoding_equals_the_loop(octaves: int, dimensions: int) -> None:
    torch.manual_seed(octaves)
    x = torch.randn(7, dimensions, dtype=torch.float64)
    encoded = positional_encoding(x, octaves)
    assert encoded.shape == (7, encoded_width(dimensions, octaves))
    expected = torch.tensor([slow_encoding(row, octaves) for row in x.tolist()], dtype=torch.float64)
    assert (encoded - expected).abs().max() < 1e-14  # the sines of two libraries differ in the last bit


@pytest.mark.parametrize("octaves", [0, 1, 6])
def test_the_encoding_keeps_the_memory_layout_of_the_points(octaves: int) -> None:
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    by_axes = x.T.contiguous().T.requires_grad_()
    encoded = positional_encoding(by_axes, octaves)
    assert torch.equal(encoded, positional_encoding(x, octaves)) and encoded.T.is_contiguous()
    (gradient,) = torch.autograd.grad(encoded.square().sum(), by_axes)
    (expected,) = torch.autograd.grad(positional_encoding(x.requires_grad_(), octaves).square().sum(), x)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-4)


def test_published_widths() -> None:
    assert encoded_width(3, 6) == 39  # points
    assert encoded_width(3, 4) == 27  # view directions
    assert encoded_width(3, 0) == 3


def test_zero_octaves_return_the_vector() -> None:
    x = torch.randn(4, 3)
    assert positional_encoding(x, 0) is x
    assert positional_encoding(torch.zeros(0, 3), 6).shape == (0, 39)


def test_encoding_gradcheck() -> None:
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: positional_encoding(x, 3), (x,))
    assert torch.autograd.gradgradcheck(lambda x: positional_encoding(x, 3), (x,))
