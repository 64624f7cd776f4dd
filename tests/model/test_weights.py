"""Loading weights: what fits is loaded whole, what does not is explained and changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from idr.errors import InputError
from idr.model.weights import load_weights
from tests.model.networks import idr_network


def refused(weights, message: str) -> None:
    network = idr_network(seed=0)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match=message):
        load_weights(network, weights, where="7.pth", remedy="check --conf")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_that_fit_are_loaded() -> None:
    network, other = idr_network(seed=0), idr_network(seed=1)
    load_weights(network, other.state_dict(), where="7.pth", remedy="check --conf")
    for name, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_another_width_is_explained() -> None:
    wider = idr_network(seed=1, implicit_network__dims=[24, 30, 24]).state_dict()
    refused(wider, r"7\.pth is of another architecture .*lin1.* there, .* in the conf's model.*check --conf")


def test_missing_and_surplus_weights_are_explained() -> None:
    weights = dict(idr_network(seed=1).state_dict())
    bias = weights.pop("rendering_network.lin0.bias")
    refused(weights, "rendering_network.lin0.bias is missing there")
    refused(
        {**weights, "rendering_network.lin0.bias": bias, "surplus": bias},
        "surplus is not in the conf's model",
    )


@pytest.mark.parametrize("weights", [None, 3, [torch.zeros(1)], {"implicit_network.lin0.bias": "text"}])
def test_what_is_no_table_of_weights_is_refused(weights) -> None:
    refused(weights, r"7\.pth holds no model_state_dict of tensors.*check --conf")
