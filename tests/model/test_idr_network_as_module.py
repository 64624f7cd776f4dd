"""IDRNetwork as a torch module: names in its state, copies, devices, wrong keys."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch

import idr.model
from idr.errors import InputError
from idr.geometry.cameras import pixel_rays
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.loss import IDRLoss
from tests.model.networks import camera_input, conf, idr_network, loss_of

PACKAGE = Path(idr.model.__file__).parents[1]


def test_state_dict_holds_only_published_names_in_order() -> None:
    names = [f"implicit_network.lin{i}.{p}" for i in range(4) for p in ("bias", "weight_g", "weight_v")]
    names += [f"rendering_network.lin{i}.{p}" for i in range(3) for p in ("bias", "weight_g", "weight_v")]
    network = idr_network()
    assert list(network.state_dict()) == [name for name, _ in network.named_parameters()] == names
    assert not list(network.buffers())


def test_state_survives_saving(tmp_path: Path) -> None:
    network, batch = idr_network(seed=0).eval(), camera_input()
    torch.save(network.state_dict(), tmp_path / "state.pth")
    other = idr_network(seed=1).eval()
    assert not torch.equal(other(batch)["rgb_values"], network(batch)["rgb_values"])
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert torch.equal(other(batch)["rgb_values"], network(batch)["rgb_values"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles(copied) -> None:
    network, batch = idr_network().train(), camera_input()
    loss_of(network(batch))["loss"].backward()  # a used model, with gradients
    other = copied(network)
    assert torch.equal(other.eval()(batch)["rgb_values"], network.eval()(batch)["rgb_values"])
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert not torch.equal(next(other.parameters()), next(network.parameters()))


def test_same_seed_same_network() -> None:
    for (name, one), two in zip(idr_network(4).named_parameters(), idr_network(4).parameters(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(
        idr_network(4).implicit_network.lin0.weight_v, idr_network(5).implicit_network.lin0.weight_v
    )


def test_networks_cameras_and_losses_run_on_another_device() -> None:
    """The device ``meta`` computes shapes only; a tensor made on a fixed device would raise an error here."""
    with torch.device("meta"):
        network = IDRNetwork(conf())
    assert all(p.device.type == "meta" for p in network.parameters())
    batch = {name: value.to("meta") for name, value in camera_input(vectors=True).items()}
    directions, centers = pixel_rays(batch["uv"], batch["pose"], batch["intrinsics"])
    assert directions.device.type == centers.device.type == "meta"
    x = torch.zeros(7, 3, device="meta")
    colors, sdf = network.shade(x, x)
    assert sdf.device.type == "meta" and sdf.shape == (7, 1)
    assert colors.device.type == "meta" and colors.shape == (7, 3)
    assert network.implicit_network.gradient(x).shape == (7, 1, 3)
    flags = torch.zeros(7, dtype=torch.bool, device="meta")
    outputs = {
        "rgb_values": colors,
        "sdf_output": x[:, :1],
        "network_object_mask": flags,
        "object_mask": flags,
    }
    losses = IDRLoss(0.1, 100.0, 50.0)({**outputs, "grad_theta": x}, {"rgb": x.reshape(1, 7, 3)})
    losses["loss"].backward()
    assert losses["loss"].device.type == "meta"


def test_no_device_is_named_in_geometry_and_model() -> None:
    literal = re.compile(r"cuda|\.cpu\(|\.to\(\s*[\"']|device\s*=\s*[\"']|torch\.device\(")
    for folder in ("geometry", "model"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                assert not literal.search(line), f"{path.name}:{number}: {line.strip()}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_tracer__sdf_treshold": 1e-4}, "model.ray_tracer.*sdf_threshold"),
        ({"implicit_network__mutlires": 6}, "model.implicit_network.*multires"),
        ({"rendering_network__mode": 3}, "model.rendering_network.mode"),
        ({"implicit_network__dims": "wide"}, "model.implicit_network.dims"),
    ],
)
def test_wrong_keys_are_named_in_full(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        idr_network(**changes)
