"""The appearance network, against an explicit concatenation and matrix product."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from idr.errors import InputError
from idr.model.rendering_network import RenderingNetwork, RenderingNetworkConfig
from tests.model.networks import roughen

DOUBLE = torch.float64
CASES = [  # mode, d_in, octaves of the view direction, width of the encoded view direction
    ("idr", 9, 4, 27),
    ("idr", 9, 0, 3),
    ("no_view_dir", 6, 0, 0),
    ("no_normal", 6, 4, 27),
    ("no_normal", 6, 0, 3),
]


def network_of(
    mode: str, d_in: int, octaves: int, features: int = 4, weight_norm: bool = True
) -> RenderingNetwork:
    torch.manual_seed(0)
    config = RenderingNetworkConfig(mode, d_in, 3, (10, 12), weight_norm=weight_norm, multires_view=octaves)
    network = RenderingNetwork(features, config).double()
    roughen(network, 0.5, seed=1)
    return network


def inputs(num: int, features: int = 4):
    generator = torch.Generator().manual_seed(2)
    points, normals, view_dirs = torch.randn(3, num, 3, generator=generator, dtype=DOUBLE)
    return points, normals, view_dirs, torch.randn(num, features, generator=generator, dtype=DOUBLE)


def by_hand(network, mode: str, octaves: int, point, normal, view_dir, feature) -> list[float]:
    """Color of one point: the concatenation of SPEC section 3, then loops over numbers."""
    encoded = list(view_dir)
    for k in range(octaves):
        encoded += [math.sin(2**k * a) for a in view_dir] + [math.cos(2**k * a) for a in view_dir]
    row = {
        "idr": [*point, *encoded, *normal, *feature],
        "no_view_dir": [*point, *normal, *feature],
        "no_normal": [*point, *encoded, *feature],
    }[mode]
    for index in range(network.num_layers):
        layer = getattr(network, f"lin{index}")
        rows = layer.weight.tolist()
        row = [
            sum(w * a for w, a in zip(r, row, strict=True)) + b
            for r, b in zip(rows, layer.bias.tolist(), strict=True)
        ]
        last = index == network.num_layers - 1
        row = [math.tanh(a) if last else max(a, 0.0) for a in row]
    return row


@pytest.mark.parametrize("features", [0, 4])
@pytest.mark.parametrize(("mode", "d_in", "octaves", "view_width"), CASES)
def test_colors_by_hand(mode: str, d_in: int, octaves: int, view_width: int, features: int) -> None:
    network = network_of(mode, d_in, octaves, features)
    batch = inputs(8, features)
    rows = [by_hand(network, mode, octaves, *(t[k].tolist() for t in batch)) for k in range(8)]
    colors = network(*batch)
    assert colors.shape == (8, 3)
    assert (colors - torch.tensor(rows, dtype=DOUBLE)).abs().max() < 1e-12  # float64, sums in another order
    assert network.lin0.weight.shape[1] == 3 + view_width + (0 if mode == "no_normal" else 3) + features


@pytest.mark.parametrize(("mode", "ignored"), [("no_view_dir", 2), ("no_normal", 1)])
def test_ablations_ignore_an_input(mode: str, ignored: int) -> None:
    network = network_of(mode, 6, 0)
    batch = list(inputs(6))
    before = network(*batch)
    batch[ignored] = torch.full_like(batch[ignored], torch.nan)
    assert torch.equal(network(*batch), before)


def test_mode_idr_depends_on_every_input() -> None:
    network = network_of("idr", 9, 2)
    batch = inputs(6)
    for k in range(4):
        changed = list(batch)
        changed[k] = changed[k] + 0.1
        assert not torch.equal(network(*changed), network(*batch))


def test_normals_are_not_normalized() -> None:
    network = network_of("idr", 9, 2)
    points, normals, view_dirs, features = inputs(6)
    assert (
        network(points, 2 * normals, view_dirs, features) - network(points, normals, view_dirs, features)
    ).abs().max() > 1e-4


def test_colors_stay_in_range() -> None:
    network = network_of("idr", 9, 2)
    colors = network(*(1000 * t for t in inputs(200)))
    assert colors.abs().max() <= 1 and torch.isfinite(colors).all()
    assert colors.min() < -0.9 and colors.max() > 0.9


def test_published_parameters_of_the_dtu_conf() -> None:
    with torch.device("meta"):
        network = RenderingNetwork(256, RenderingNetworkConfig("idr", 9, 3, (512,) * 4, multires_view=4))
    expected = []
    for index, (out, width) in enumerate([(512, 289), (512, 512), (512, 512), (512, 512), (3, 512)]):
        expected += [
            (f"lin{index}.bias", (out,)),
            (f"lin{index}.weight_g", (out, 1)),
            (f"lin{index}.weight_v", (out, width)),
        ]
    assert [(name, tuple(p.shape)) for name, p in network.named_parameters()] == expected


@pytest.mark.parametrize("weight_norm", [True, False])
def test_starts_with_torchs_default_numbers(weight_norm: bool) -> None:
    torch.manual_seed(5)
    network = RenderingNetwork(4, RenderingNetworkConfig("idr", 9, 3, (10, 12), weight_norm, 1))
    torch.manual_seed(5)
    for index, (width_in, width_out) in enumerate([(19, 10), (10, 12), (12, 3)]):
        plain, layer = nn.Linear(width_in, width_out), getattr(network, f"lin{index}")
        assert torch.equal(layer.weight_v if weight_norm else layer.weight, plain.weight)
        assert torch.equal(layer.bias, plain.bias)


def test_gradcheck() -> None:
    network = network_of("idr", 9, 1)
    batch = tuple(t.requires_grad_(True) for t in inputs(3))
    assert torch.autograd.gradcheck(network, batch)


def test_no_points() -> None:
    assert network_of("idr", 9, 2)(*inputs(0)).shape == (0, 3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "nerf"}, "mode = nerf: expected one of idr, no_view_dir, no_normal"),
        ({"d_in": 6}, "d_in = 6: mode idr takes 9"),
        ({"mode": "no_normal"}, "d_in = 9: mode no_normal takes 6"),
        (
            {"mode": "no_view_dir", "d_in": 6, "multires_view": 4},
            "multires_view = 4: mode no_view_dir has none",
        ),
    ],
)
def test_invalid_configs_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RenderingNetwork(
            4, RenderingNetworkConfig(**({"mode": "idr", "d_in": 9, "d_out": 3, "dims": (8,)} | keys))
        )


def test_values_do_not_depend_on_the_batch() -> None:
    network = network_of("idr", 9, 2)
    batch = inputs(9)
    batched = network(*batch).detach().numpy()
    one_by_one = np.concatenate([network(*(t[k : k + 1] for t in batch)).detach().numpy() for k in range(9)])
    np.testing.assert_allclose(one_by_one, batched, atol=1e-14)  # float64, sums in another order


def branched(features: int = 4) -> RenderingNetwork:
    torch.manual_seed(0)
    block = {"type": "spherical_harmonics", "degree": 3, "direction": "both"}
    config = RenderingNetworkConfig("idr", 9, 3, (10, 12), encoding_view=block, view_dims=(7,))
    network = RenderingNetwork(features, config).double()
    roughen(network, 0.5, seed=1)
    return network


def test_the_view_branch_does_not_depend_on_the_position() -> None:
    network = branched()
    assert network.lin0.weight.shape == (10, 3 + 3 + 4) and network.view0.weight.shape == (7, 18 + 3 + 4)
    points, normals, view_dirs, features = inputs(8)
    view_dirs = torch.nn.functional.normalize(view_dirs, dim=1)
    others = view_dirs.flip(0)

    def change(positions: torch.Tensor) -> torch.Tensor:
        one, two = (network(positions, normals, views, features) for views in (view_dirs, others))
        return two - one

    assert (change(points) - change(points.flip(0))).abs().max() < 1e-12
    assert change(points).abs().max() > 0.01
    moved = network(points.flip(0), normals, view_dirs, features) - network(
        points, normals, view_dirs, features
    )
    assert moved.abs().max() > 0.01


def test_colors_of_the_view_branch_are_clamped_in_evaluation_only() -> None:
    network, (points, normals, view_dirs, features) = branched(), inputs(8)
    with torch.no_grad():
        network.view1.bias += 3.0
    bright = network(points, normals, view_dirs, features)
    assert bright.max() > 1
    assert torch.equal(network.eval()(points, normals, view_dirs, features), bright.clamp(-1, 1))


def test_the_view_branch_needs_view_and_normal() -> None:
    with pytest.raises(
        InputError, match=r"view_dims = \[8\]: mode no_normal lacks the view direction or the"
    ):
        RenderingNetwork(4, RenderingNetworkConfig("no_normal", 6, 3, (10,), view_dims=(8,)))
    with pytest.raises(InputError, match=r"view_dims = \[0\]: expected positive widths"):
        RenderingNetwork(4, RenderingNetworkConfig("idr", 9, 3, (10,), view_dims=(0,)))
