"""Weight normalization, against torch's own parametrization."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from idr.model.layers import (
    WeightNormLinear,
    folded_weights,
    make_linear,
    set_linear,
)

DOUBLE = torch.float64


def pair(width_in: int = 7, width_out: int = 5) -> tuple[WeightNormLinear, nn.Module]:
    """Our layer and torch's, with equal parameters; g is not the norm of v."""
    torch.manual_seed(0)
    ours = WeightNormLinear(width_in, width_out).double()
    theirs = parametrizations.weight_norm(nn.Linear(width_in, width_out).double(), dim=0)
    with torch.no_grad():
        ours.weight_g *= torch.rand(width_out, 1, dtype=DOUBLE) + 0.5
        theirs.bias.copy_(ours.bias)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
    return ours, theirs


def test_values_and_gradients_equal_torch() -> None:
    ours, theirs = pair()
    x = torch.randn(11, 7, dtype=DOUBLE)
    weight = torch.randn(11, 5, dtype=DOUBLE)
    (ours(x) * weight).sum().backward()
    (theirs(x) * weight).sum().backward()
    originals = theirs.parametrizations.weight
    assert (ours(x) - theirs(x)).abs().max() < 1e-14  # sums in another order
    for gradient, expected in (
        (ours.bias.grad, theirs.bias.grad),
        (ours.weight_g.grad, originals.original0.grad),
        (ours.weight_v.grad, originals.original1.grad),
    ):
        assert (gradient - expected).abs().max() < 1e-13


def test_weight_rows_by_hand() -> None:
    ours, _ = pair()
    for row in range(5):
        v = ours.weight_v[row].tolist()
        norm = sum(a * a for a in v) ** 0.5
        expected = [ours.weight_g[row, 0].item() * a / norm for a in v]
        assert ours.weight[row].tolist() == pytest.approx(expected, rel=1e-12)


def test_gradcheck_of_all_derivatives_of_training() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 4, dtype=DOUBLE, requires_grad=True)
    layer = WeightNormLinear(4, 2).double()
    parameters = tuple(p.detach().clone().requires_grad_(True) for p in layer.parameters())

    def apply(x, *parameters):
        named = dict(zip(("bias", "weight_g", "weight_v"), parameters, strict=True))
        return torch.func.functional_call(layer, named, x)

    def normal(x, *parameters):  # a gradient by x, as in the Eikonal term and the normals
        return torch.autograd.grad(apply(x, *parameters).square().sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(apply, (x, *parameters))
    assert torch.autograd.gradcheck(normal, (x, *parameters))


def test_parameters_are_named_and_ordered_as_published() -> None:
    layer = WeightNormLinear(7, 5)
    assert [(name, tuple(p.shape)) for name, p in layer.named_parameters()] == [
        ("bias", (5,)),
        ("weight_g", (5, 1)),
        ("weight_v", (5, 7)),
    ]
    assert list(layer.state_dict()) == ["bias", "weight_g", "weight_v"]
    assert list(make_linear(7, 5, weight_norm=False).state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("weight_norm", [True, False])
def test_starts_with_torchs_default_numbers(weight_norm: bool) -> None:
    torch.manual_seed(3)
    layer = make_linear(7, 5, weight_norm)
    torch.manual_seed(3)
    plain = nn.Linear(7, 5)
    assert torch.equal(layer.bias, plain.bias)
    if weight_norm:
        assert torch.equal(layer.weight_v, plain.weight)
        for g, row in zip(layer.weight_g, plain.weight, strict=True):
            assert g.item() == pytest.approx(row.norm().item(), rel=1e-6)  # float32
    assert (layer.weight - plain.weight).abs().max() < 1e-6  # g v / |v| with g = |v|, float32


@pytest.mark.parametrize("weight_norm", [True, False])
def test_set_linear_sets_the_applied_weight(weight_norm: bool) -> None:
    layer = make_linear(4, 3, weight_norm).double()
    weight, bias = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
    set_linear(layer, weight, bias)
    assert (layer.weight - weight).abs().max() < 1e-14 and torch.equal(layer.bias, bias)
    if weight_norm:
        assert (layer.weight_g[:, 0] - weight.norm(dim=1)).abs().max() < 1e-14


def test_scale_of_v_has_no_effect() -> None:
    ours, _ = pair()
    x = torch.randn(6, 7, dtype=DOUBLE)
    before = ours(x)
    with torch.no_grad():
        ours.weight_v *= torch.tensor([[0.1], [3.0], [7.0], [1.0], [20.0]], dtype=DOUBLE)
    assert (ours(x) - before).abs().max() < 1e-13


def test_copies_and_pickles() -> None:
    ours, _ = pair()
    x = torch.randn(2, 7, dtype=DOUBLE)
    ours(x).sum().backward()
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), ours(x))


def test_folded_weights_are_bit_equal_and_restored_afterwards() -> None:
    ours, _ = pair()
    network = nn.Sequential(ours, nn.ReLU(), nn.Linear(5, 2).double())
    x = torch.randn(6, 7, dtype=DOUBLE)
    expected = network(x)
    with folded_weights(network):
        assert ours.weight is ours.weight and not ours.weight.requires_grad  # computed once
        assert torch.equal(network(x), expected)
    assert ours.weight.requires_grad and list(ours.state_dict()) == ["bias", "weight_g", "weight_v"]
    with torch.no_grad():
        ours.weight_v *= -1  # an optimizer's step in between
    with folded_weights(network):
        assert torch.equal(ours.weight, ours.weight) and not torch.equal(network(x), expected)
    network(x).sum().backward()
    assert ours.weight_v.grad.any()


def test_weights_are_unfolded_after_an_error() -> None:
    ours, _ = pair()
    with pytest.raises(ZeroDivisionError), folded_weights(ours):
        raise ZeroDivisionError
    assert ours.weight.requires_grad
