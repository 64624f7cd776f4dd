"""Loading weights: fitting weights are loaded, others are refused with a reason and change nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from idr.errors import InputError
from idr.model.weights import load_weights
from tests.model.networks import idr_network


def check_refused(weights, message: str) -> None:
    network = idr_network(seed=0)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match=message):
        load_weights(network, weights, where="7.pth", remedy="check --conf")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_fitting_weights_are_loaded() -> None:
    network, other = idr_network(seed=0), idr_network(seed=1)
    load_weights(network, other.state_dict(), where="7.pth", remedy="check --conf")
    for name, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_another_width_is_explained() -> None:
    wider = idr_network(seed=1, implicit_network__dims=[24, 30, 24]).state_dict()
    check_refused(
        wider, r"7\.pth is of another architecture .*lin1.* there, .* in the conf's model.*check --conf"
    )


def test_missing_and_surplus_weights_are_explained() -> None:
    weights = dict(idr_network(seed=1).state_dict())
    bias = weights.pop("rendering_network.lin0.bias")
    check_refused(weights, "rendering_network.lin0.bias is missing there")
    check_refused(
        {**weights, "rendering_network.lin0.bias": bias, "surplus": bias},
        "surplus is not in the conf's model",
    )


@pytest.mark.parametrize("weights", [None, 3, [torch.zeros(1)], {"implicit_network.lin0.bias": "text"}])
def test_anything_but_a_dictionary_of_tensors_is_refused(weights) -> None:
    check_refused(weights, r"7\.pth holds no model_state_dict of tensors.*check --conf")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight > 0,
        lambda weight: weight.long(),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    ],
    ids=["complex", "boolean", "integer", "sparse", "meta", "quantized"],
)
@pytest.mark.filterwarnings("ignore")  # torch announces the end of quantized tensors
def test_tensors_without_plain_real_numbers_are_refused(spoil) -> None:
    weights = dict(idr_network(seed=1).state_dict())
    weights["implicit_network.lin0.bias"] = spoil(weights["implicit_network.lin0.bias"])
    check_refused(
        weights, r"^7\.pth, .*implicit_network\.lin0\.bias: got .*; expected a dense tensor of finite .*; use"
    )


def test_another_float_type_is_converted() -> None:
    network = idr_network(seed=0)
    weights = {name: value.double() for name, value in idr_network(seed=1).state_dict().items()}
    load_weights(network, weights, where="7.pth", remedy="check --conf")
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, weights[name].float())
