"""Networks with a hash grid: initialization, gradients, confs, training, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idr.conf.build import build_model
from idr.conf.files import load_conf
from idr.errors import InputError
from idr.model.rendering_network import RenderingNetwork, RenderingNetworkConfig
from idr.runs import Run
from tests.model.networks import central_differences, implicit_network
from tests.training import tiny

BLOCK = {"type": "hashgrid", "levels": 6, "log2_table": 12, "base_resolution": 4, "finest_resolution": 64}
ENCODING = "model.implicit_network.encoding"


def conf_text(more: str = "") -> str:
    """The conf of the tiny scene with a hash grid of three small levels."""
    encoding = "type = hashgrid, levels = 3, log2_table = 10, base_resolution = 4, finest_resolution = 16"
    text = tiny.conf_text().replace("multires = 1\n", f"encoding {{ {encoding} }}\n{more}\n", 1)
    assert "hashgrid" in text
    return text


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("bias", "skip_in"), [(0.6, ()), (0.5, (1,))])
def test_starts_as_a_sphere(bias: float, skip_in: tuple[int, ...], seed: int) -> None:
    keys = {"dims": (256, 256), "bias": bias, "skip_in": skip_in}
    plain = implicit_network(seed, encoding=BLOCK, **keys)
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(500, 3, dtype=torch.float64), dim=1)
        values = plain.sdf(directions * bias)
        assert values.abs().mean() < 0.2 * bias  # the deviation of 256 random units
        assert (plain.sdf(directions * 0.1 * bias) < 0).all() and (plain.sdf(directions) > 0).all()
        gone = plain.sdf(directions * bias)
        plain.encoding.open_levels = 0.0
        assert torch.allclose(gone, plain.sdf(directions * bias), atol=1e-3)  # the encoding has no effect yet


def test_gradient_equals_finite_differences() -> None:
    network = implicit_network(encoding=BLOCK)
    with torch.no_grad():
        network.encoding.table.uniform_(-0.1, 0.1)  # type: ignore[operator]
        for layer in (network.lin0, network.lin1):
            layer.weight_v.add_(0.1 * torch.randn_like(layer.weight_v))  # type: ignore[operator]
    x = 1.6 * torch.rand(50, 3, dtype=torch.float64) - 0.8
    exact = central_differences(lambda x: network.sdf(x).detach(), x, 1e-7)
    assert (network.gradient(x).squeeze(1) - exact).abs().max() < 1e-5


def test_sinusoids_by_name_equal_multires() -> None:
    named = implicit_network(encoding={"type": "sinusoids", "multires": 2})
    published = implicit_network(multires=2)
    x = torch.rand(9, 3, dtype=torch.float64)
    assert list(named.state_dict()) == list(published.state_dict())
    assert torch.equal(named(x), published(x))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"{ENCODING}.levles=4", rf"{ENCODING}.levles: unknown key \(did you mean levels\?\)"),
        (f"{ENCODING}.levels=0", rf"{ENCODING}.levels = 0: expected 1 to 32 levels"),
        (f"{ENCODING}.features=0", rf"{ENCODING}.features = 0: expected 1 to 16"),
        (f"{ENCODING}.log2_table=40", rf"{ENCODING}.log2_table = 40: expected 4 to 24"),
        (f"{ENCODING}.finest_resolution=2", r"finest_resolution = 2: expected base_resolution \(4\) to"),
        (f"{ENCODING}.base_resolution=0", rf"{ENCODING}.base_resolution = 0: expected 1 or more"),
        (f"{ENCODING}.bound=0", rf"{ENCODING}.bound = 0.0: expected half the side of a cube"),
        (f"{ENCODING}.backend=nubma", rf"{ENCODING}.backend: .*did you mean numba\?"),
        (f"{ENCODING}.type=hashgird", rf"{ENCODING}.type = hashgird: .*did you mean hashgrid\?"),
        ("model.implicit_network.multires=2", r"multires = 2: the block .*encoding replaces it"),
        ("model.implicit_network.gradient=exact", r"gradient: got 'exact'.*analytic, numerical"),
        ("model.implicit_network.gradient_step=0.5", "gradient_step: belongs to gradient = numerical, got"),
        ("model.implicit_network.gradient_step=-1", r"gradient_step = -1\.0: expected a step above 0"),
        ("model.implicit_network.gradeint_step=2", r"unknown key \(did you mean gradient_step\?\)"),
        (
            "model.rendering_network.encoding_view={type=spherical_harmonics}",
            "replaces multires_view",
        ),
    ],
)
def test_wrong_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(load_conf(conf_text(), [override]))


def test_colors_have_an_encoding_of_their_own() -> None:
    """The encoded point replaces the point, and the table gets gradients from colors."""
    config = RenderingNetworkConfig("idr", 9, 3, (16,), encoding=BLOCK)
    network = RenderingNetwork(5, config).double()
    assert network.encoding is not None
    assert network.lin0.weight.shape[1] == 9 + 5 + network.encoding.width - 3  # type: ignore[union-attr]
    x, n, v = (torch.rand(40, 3, dtype=torch.float64) - 0.5 for _ in range(3))
    z = torch.rand(40, 5, dtype=torch.float64)
    with torch.no_grad():
        network.encoding.table.uniform_(-0.1, 0.1)  # type: ignore[operator]
        hidden = torch.cat((network.encoding(x), v, n, z), 1) @ network.lin0.weight.T + network.lin0.bias  # type: ignore[union-attr,operator]
        by_hand = torch.tanh(network.lin1(hidden.relu()))  # type: ignore[operator]
    colors = network(x, n, v, z)
    assert torch.allclose(colors, by_hand, atol=1e-13)  # float64, sums in another order
    colors.sum().backward()
    touched = network.encoding.table.grad.abs().sum(dim=1) > 0  # type: ignore[union-attr,operator]
    assert 0 < int(touched.sum()) < len(touched)


@pytest.mark.parametrize("gradient", ["analytic", "numerical"])
def test_trains_and_loads_from_a_checkpoint(tmp_path: Path, gradient: str) -> None:
    tiny.write_scene(tmp_path / "data")
    conf = load_conf(conf_text(f"gradient = {gradient}"))
    trainer = tiny.make_trainer(
        tmp_path, tmp_path / "run", conf=conf_text(f"gradient = {gradient}"), nepoch=3
    )
    model = trainer.state.model
    assert model.tracer_config.strategy == "accelerated"
    before = model.implicit_network.encoding.table.detach().clone()
    assert trainer.train()
    network = model.implicit_network
    moved = (network.encoding.table - before).abs().amax(dim=1)
    assert (moved > 1e-4).float().mean() > 0.1 and network.lin0.weight_v[:, 3:].any()

    loaded = Run(conf, tmp_path / "run", device=torch.device("cpu")).model
    x = 2 * torch.rand(100, 3) - 1
    assert torch.equal(loaded.implicit_network(x), network(x))
