"""The signed distance network: published names, geometric initialization, derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from idr.errors import InputError
from idr.model.implicit_network import SOFTPLUS_BETA, ImplicitNetwork, ImplicitNetworkConfig
from tests.model.networks import central_differences, implicit_network, roughen

DOUBLE = torch.float64
PUBLISHED = {"d_in": 3, "d_out": 1, "dims": (512,) * 8, "bias": 0.6, "skip_in": (4,), "multires": 6}
SMALL = {"dims": (16, 16, 16), "bias": 0.6, "skip_in": (2,), "multires": 1}


def points(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(num, 3, generator=generator, dtype=DOUBLE) - 1


# --- names, shapes, order -----------------------------------------------------------------------------------


def test_published_parameters_of_the_dtu_conf() -> None:
    with torch.device("meta"):  # shapes only
        network = ImplicitNetwork(256, ImplicitNetworkConfig(**PUBLISHED))
    widths = [(512, 39), (512, 512), (512, 512), (473, 512), *[(512, 512)] * 4, (257, 512)]
    expected = []
    for index, (width_out, width_in) in enumerate(widths):
        expected += [
            (f"lin{index}.bias", (width_out,)),
            (f"lin{index}.weight_g", (width_out, 1)),
            (f"lin{index}.weight_v", (width_out, width_in)),
        ]
    assert [(name, tuple(p.shape)) for name, p in network.named_parameters()] == expected
    assert list(network.state_dict()) == [name for name, _ in expected]


def test_published_parameters_without_weight_norm() -> None:
    network = implicit_network(features=0, weight_norm=False)
    expected = ["lin0.weight", "lin0.bias", "lin1.weight", "lin1.bias", "lin2.weight", "lin2.bias"]
    assert list(network.state_dict()) == expected
    assert network.lin2.weight.shape == (1, 12)


# --- initialization
# ----------------------------------------------------------------------------------------------


def published_start(features: int, config: ImplicitNetworkConfig) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and biases of each layer, drawn in the order of the published constructor.

    Each layer is a plain nn.Linear, whose default numbers are drawn first and then overwritten by normal_.
    """
    width = 3 + 6 * config.multires
    dims = [width, *config.dims, 1 + features]
    layers = []
    for index in range(len(dims) - 1):
        out = dims[index + 1] - (width if index + 1 in config.skip_in else 0)
        linear = nn.Linear(dims[index], out)
        if config.geometric_init:
            if index == len(dims) - 2:
                nn.init.normal_(linear.weight, mean=np.sqrt(np.pi) / np.sqrt(dims[index]), std=0.0001)
                nn.init.constant_(linear.bias, -config.bias)
            else:
                nn.init.constant_(linear.bias, 0.0)
                std = np.sqrt(2) / np.sqrt(out)
                if config.multires and index == 0:
                    nn.init.constant_(linear.weight[:, 3:], 0.0)
                    nn.init.normal_(linear.weight[:, :3], 0.0, std)
                else:
                    nn.init.normal_(linear.weight, 0.0, std)
                    if config.multires and index in config.skip_in:
                        nn.init.constant_(linear.weight[:, -(width - 3) :], 0.0)
        layers.append((linear.weight.detach(), linear.bias.detach()))
    return layers


@pytest.mark.parametrize(
    ("features", "keys"),
    [
        (8, {"dims": (64, 64, 64), "skip_in": (2,), "multires": 4, "bias": 0.6}),
        (0, {"dims": (64, 64), "multires": 6, "weight_norm": False}),
        (8, {"dims": (32, 32, 32), "skip_in": (1,), "bias": 0.6}),
        (8, {"dims": (32, 32), "geometric_init": False, "multires": 2}),
    ],
)
def test_same_seed_starts_as_the_published_constructor(features: int, keys: dict) -> None:
    config = ImplicitNetworkConfig(d_in=3, d_out=1, **keys)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        network = ImplicitNetwork(features, config)
        after_ours = torch.rand(4)
        torch.manual_seed(42)
        expected = published_start(features, config)
        assert torch.equal(torch.rand(4), after_ours)  # both drew equally many numbers
    assert network.num_layers == len(expected)
    for index, (weight, bias) in enumerate(expected):
        layer = network.layer(index)
        v = layer.weight_v if config.weight_norm else layer.weight
        assert torch.equal(v, weight), index
        assert torch.equal(layer.bias, bias), index
        if config.weight_norm:
            # float32 norms of up to 64 numbers, summed in another order
            assert (layer.weight_g[:, 0] - weight.norm(dim=1)).abs().max() < 1e-6


def start_tolerance(width: int, num_hidden: int, radius: float) -> float:
    """Bound of |f - (|x| - r)| at |x| = ``radius``: four standard deviations plus the bias of softplus.

    A layer of n rectified N(0, 2 |h|^2 / n) numbers keeps |h| with relative deviation sqrt(5 / 4n); the last
    layer sums n of them, with relative deviation sqrt(pi - 1) / sqrt(n). Softplus exceeds the ReLU by an area
    of pi^2 / 6 beta^2, times the density of those numbers at 0, for each of the n summands.
    """
    deviation = math.sqrt((num_hidden - 1) * 1.25 + math.pi - 1) / math.sqrt(width)
    spread = math.sqrt(2 / width) * radius
    excess = (
        math.pi**2 / (6 * SOFTPLUS_BETA**2) / (spread * math.sqrt(2 * math.pi)) * math.sqrt(math.pi * width)
    )
    return 4 * deviation * radius + 1.5 * excess  # each layer adds to the excess


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("dims", "skip_in", "multires", "bias"),
    [
        ((512,) * 4, (2,), 6, 0.6),
        ((512,) * 4, (2,), 0, 0.6),
        ((256, 256), (), 0, 1.0),
        ((256, 256, 256), (), 4, 0.3),
    ],
)
def test_starts_as_a_sphere(dims, skip_in, multires: int, bias: float, seed: int) -> None:
    network = implicit_network(seed, features=3, dims=dims, skip_in=skip_in, multires=multires, bias=bias)
    directions = torch.nn.functional.normalize(points(60, seed), dim=1)
    for radius in (0.5, 1.0, 2.0):
        error = network.sdf(radius * directions) - (radius - bias)
        assert error.abs().max() < start_tolerance(min(dims), len(dims), radius)
    assert (network.sdf(0.05 * directions) < 0).all() and (network.sdf(3 * directions) > 0).all()
    normals = network.gradient(directions).squeeze(1)
    assert (torch.nn.functional.normalize(normals, dim=1) * directions).sum(dim=1).min() > 0.7  # outwards


def test_without_geometric_init_layers_start_with_torchs_default() -> None:
    torch.manual_seed(1)
    network = ImplicitNetwork(2, ImplicitNetworkConfig(3, 1, (8,), geometric_init=False))
    torch.manual_seed(1)
    for layer in (network.lin0, network.lin1):
        plain = nn.Linear(layer.weight_v.shape[1], layer.weight_v.shape[0])
        assert torch.equal(layer.weight_v, plain.weight) and torch.equal(layer.bias, plain.bias)


# --- values -------------------------------------------------------------------------------------------------


def slow_forward(network: ImplicitNetwork, x: np.ndarray, multires: int) -> np.ndarray:
    """SPEC section 3 for one point, in numpy."""
    encoded = np.concatenate([x, *[f(2**k * x) for k in range(multires) for f in (np.sin, np.cos)]])
    hidden = encoded
    for index in range(network.num_layers):
        if index in network.skip_in:
            hidden = np.concatenate((hidden, encoded)) / np.sqrt(2)
        layer = network.layer(index)
        v, g, bias = (getattr(layer, name).detach().numpy() for name in ("weight_v", "weight_g", "bias"))
        hidden = (g * v / np.linalg.norm(v, axis=1, keepdims=True)) @ hidden + bias
        if index < network.num_layers - 1:
            hidden = np.logaddexp(0, 100 * hidden) / 100
    return hidden


@pytest.mark.parametrize("multires", [0, 2])
def test_values_equal_the_slow_network(multires: int) -> None:
    network = implicit_network(dims=(20, 24, 28), skip_in=(1, 2), multires=multires)
    roughen(network, 0.5, seed=1)
    x = points(20)
    expected = np.stack([slow_forward(network, row, multires) for row in x.numpy()])
    output = network(x)
    assert output.shape == (20, 5)
    # torch's softplus is the identity beyond 20 / beta, an error of e^-20 / 100 = 2e-11
    assert np.abs(output.detach().numpy() - expected).max() < 1e-9
    assert np.abs(network.sdf(x).detach().numpy() - expected[:, 0]).max() < 1e-9
    assert network.sdf(x).shape == (20,)


def test_no_points() -> None:
    network = implicit_network(**SMALL)
    empty = torch.zeros(0, 3, dtype=DOUBLE)
    assert network(empty).shape == (0, 5) and network.sdf(empty).shape == (0,)
    assert network.gradient(empty).shape == (0, 1, 3)


# --- derivatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [SMALL, {}, {"weight_norm": False}, {"features": 0}])
def test_gradient_equals_finite_differences(keys: dict) -> None:
    network = implicit_network(**keys)
    roughen(network, 0.3, seed=2)
    x = points(25)
    gradient = network.gradient(x)
    assert gradient.shape == (25, 1, 3)
    numerical = central_differences(lambda y: network.sdf(y).detach(), x, step=1e-6)
    # Third derivatives up to beta^2 = 1e4, times the squared step 1e-12; rounding 1e-16 / 1e-6.
    assert (gradient.squeeze(1) - numerical).abs().max() < 1e-6


def test_second_derivatives_gradcheck() -> None:
    network = implicit_network(**SMALL)
    roughen(network, 0.3, seed=3)
    x = points(3, seed=1).requires_grad_(True)
    assert torch.autograd.gradcheck(network.gradient, (x,), atol=1e-4)  # third derivatives, as above


def test_double_backward_reaches_every_parameter() -> None:
    network = implicit_network(**SMALL)
    roughen(network, 0.3, seed=4)
    x = points(6, seed=2)

    def eikonal() -> torch.Tensor:
        return ((network.gradient(x).squeeze(1).norm(dim=1) - 1) ** 2).mean()

    eikonal().backward()
    for name, parameter in network.named_parameters():
        if name == "lin3.bias":  # a constant of f
            assert parameter.grad is None or not parameter.grad.any()
            continue
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
        index = parameter.grad.abs().flatten().argmax().item()
        with torch.no_grad():  # the largest entry, by finite differences
            flat = parameter.view(-1)
            flat[index] += 1e-6
            above = eikonal().item()
            flat[index] -= 2e-6
            below = eikonal().item()
            flat[index] += 1e-6
        assert parameter.grad.flatten()[index].item() == pytest.approx((above - below) / 2e-6, rel=1e-4), name


def test_value_and_gradient_equal_separate_calls_with_and_without_graph() -> None:
    network = implicit_network(**SMALL)
    x = points(10)
    output, gradient = network.value_and_gradient(x)
    assert torch.equal(output, network(x)) and torch.equal(gradient, network.gradient(x).squeeze(1))
    assert output.requires_grad and gradient.requires_grad
    assert not x.requires_grad  # the caller's tensor is unchanged
    with torch.no_grad():
        plain_output, plain_gradient = network.value_and_gradient(x)
    for plain, expected in ((plain_output, output), (plain_gradient, gradient)):
        assert (plain - expected).abs().max() < 1e-8  # torch's softplus is linear beyond exp(-20)
    assert not plain_output.requires_grad and not plain_gradient.requires_grad


def test_gradient_is_differentiable_by_the_points() -> None:
    network = implicit_network(**SMALL)
    roughen(network, 0.3, seed=5)
    base = points(5)
    shift = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    network.gradient(base + shift).sum().backward()
    assert torch.isfinite(shift.grad).all() and shift.grad.any()


def test_dtype_follows_the_points() -> None:
    network = implicit_network(**SMALL).float()
    output, gradient = network.value_and_gradient(points(4).float())
    assert output.dtype == gradient.dtype == torch.float32


# --- wrong keys
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dims": ()}, r"dims = \[\]: expected one or more positive widths"),
        ({"dims": (8, 0)}, r"dims = \[8, 0\]: expected one or more positive widths"),
        (
            {"dims": (8, 8), "skip_in": (0,)},
            "layer 0 cannot be a skip layer; with 2 hidden layers choose from 1 to 2",
        ),
        ({"dims": (8, 8), "skip_in": (3,)}, "layer 3 cannot be a skip layer"),
        (
            {"dims": (8, 8), "skip_in": (1,), "multires": 1},
            "layer 0 has width 8, of which the encoded point takes 9",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        implicit_network(**keys)
