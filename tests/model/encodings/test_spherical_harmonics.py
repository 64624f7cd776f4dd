"""Spherical harmonics, against Legendre functions, and a rendering network with them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import special

from idr.errors import InputError
from idr.model.encodings.spherical_harmonics import mirror, spherical_harmonics
from idr.model.rendering_network import RenderingNetwork, RenderingNetworkConfig

BLOCK = {"type": "spherical_harmonics", "degree": 4}


def directions(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num)
    return torch.nn.functional.normalize(torch.randn(num, 3, generator=generator, dtype=torch.float64), dim=1)


def real_harmonic(band: int, order: int, direction: list[float]) -> float:
    """From the associated Legendre function, with the Condon-Shortley phase."""
    x, y, z = direction
    m = abs(order)
    norm = math.sqrt((2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m))
    legendre = float(special.lpmv(m, band, z))
    angle = math.atan2(y, x)
    if order == 0:
        return norm * legendre
    return math.sqrt(2) * norm * legendre * (math.sin(m * angle) if order < 0 else math.cos(m * angle))


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_equals_legendre_functions(degree: int) -> None:
    v = directions(30)
    expected = torch.tensor(
        [
            [real_harmonic(band, m, row) for band in range(degree) for m in range(-band, band + 1)]
            for row in v.tolist()
        ],
        dtype=torch.float64,
    )
    ours = spherical_harmonics(v, degree)
    assert ours.shape == (30, degree**2)
    assert (ours - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("mode", "d_in", "others"), [("idr", 9, 6), ("no_normal", 6, 3)])
def test_width_of_the_rendering_network(mode: str, d_in: int, others: int) -> None:
    network = RenderingNetwork(5, RenderingNetworkConfig(mode, d_in, 3, (8,), encoding_view=BLOCK))
    assert network.lin0.weight_v.shape == (8, others + 16 + 5)  # type: ignore[union-attr]
    x = torch.rand(7, 3)
    assert network(x, x, directions(7).float(), torch.rand(7, 5)).shape == (7, 3)


def test_mirror_equals_a_householder_matrix() -> None:
    """-v reflected at the plane orthogonal to n, (I - 2 n n^T)(-v), for normals of any length."""
    v, n = directions(40), directions(41)[:40]
    for length in (1.0, 0.3, 7.0):
        found = mirror(v, length * n)
        householder = torch.eye(3, dtype=torch.float64) - 2 * n[:, :, None] * n[:, None, :]
        assert (found - (householder @ -v[:, :, None])[:, :, 0]).abs().max() < 1e-14
    assert (mirror(mirror(v, n), n) - v).abs().max() < 1e-14
    assert torch.equal(mirror(v, torch.zeros_like(n)), -v)


def test_gradcheck_of_mirror() -> None:
    v, n = directions(5).requires_grad_(), (0.7 * directions(6)[:5]).requires_grad_()
    assert torch.autograd.gradcheck(mirror, (v, n))


@pytest.mark.parametrize("direction", ["view", "mirrored", "both"])
def test_directions_that_the_rendering_network_sees(direction: str) -> None:
    """The encoded direction, its mirror image, or both."""
    block = {**BLOCK, "direction": direction}
    network = RenderingNetwork(2, RenderingNetworkConfig("idr", 9, 3, (64,), encoding_view=block)).double()
    v, n = directions(30), 1.5 * directions(31)[:30]
    expected = {
        "view": [spherical_harmonics(v, 4)],
        "mirrored": [spherical_harmonics(mirror(v, n), 4)],
        "both": [spherical_harmonics(v, 4), spherical_harmonics(mirror(v, n), 4)],
    }[direction]
    x, features = torch.rand(30, 3, dtype=torch.float64), torch.rand(30, 2, dtype=torch.float64)
    hidden = network.lin0(torch.cat((x, *expected, n, features), dim=1)).relu()  # type: ignore[operator]
    by_hand = torch.tanh(network.lin1(hidden))  # type: ignore[operator]
    assert torch.equal(network(x, n, v, features), by_hand)


@pytest.mark.parametrize(
    ("block", "mode", "message"),
    [
        ({"type": "spherical_harmonics", "degree": 5}, "idr", r"encoding_view.degree = 5: expected 1 to 4"),
        ({"type": "sinusoids"}, "idr", r"encoding_view.type = sinusoids: expected one of"),
        (BLOCK, "no_view_dir", "mode no_view_dir has no view direction"),
        (
            {**BLOCK, "direction": "mirror"},
            "idr",
            r"encoding_view.direction: got 'mirror'.*did you mean mirrored",
        ),
        ({**BLOCK, "direction": "both"}, "no_normal", "direction = both: mode no_normal does not see both"),
    ],
)
def test_wrong_blocks_are_refused(block: dict, mode: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RenderingNetwork(
            5, RenderingNetworkConfig(mode, 9 if mode == "idr" else 6, 3, (8,), encoding_view=block)
        )
