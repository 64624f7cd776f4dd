"""Our outputs and gradients against the published code's, for fixed weights and rays."""

from __future__ import annotations

import pytest
import torch

from idr.geometry.cameras import decompose_projection
from idr.geometry.quaternions import quaternion_to_rotation, rotation_to_quaternion
from idr.model.implicit_differentiable_renderer import StepDraws
from idr.model.loss import IDRLoss
from tests.parity import golden
from tests.parity.golden import COLOURS, GRADIENTS, LOSSES, VALUES, ZERO_LOSS, difference


def inputs(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(golden.section(arrays, "in"))


def compare_outputs(ours: dict, theirs: dict[str, torch.Tensor]) -> None:
    hit, golden_hit = ours["network_object_mask"], theirs["network_object_mask"].bool()
    assert (hit == golden_hit).float().mean() >= 0.999
    both = hit & golden_hit
    assert difference(ours["points"][both], theirs["points"][both]) < VALUES
    shaded = both & theirs["object_mask"].bool() if ours["grad_theta"] is not None else both
    assert difference(ours["rgb_values"][shaded], theirs["rgb_values"][shaded]) < COLOURS
    agree = same_points(ours, theirs)
    assert agree.float().mean() >= 0.999
    assert difference(ours["sdf_output"][agree], theirs["sdf_output"][agree]) < VALUES
    assert (ours["object_mask"] == theirs["object_mask"].bool()).all()


def same_points(ours: dict, theirs: dict[str, torch.Tensor]) -> torch.Tensor:
    return (ours["points"] - theirs["points"]).norm(dim=1) < 1e-3


def compare_losses(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], names: tuple[str, ...]) -> None:
    for name in names:
        expected = theirs[name].item()
        if abs(expected) < ZERO_LOSS:
            assert abs(ours[name].item()) < ZERO_LOSS, name
        else:
            assert abs(ours[name].item() - expected) / abs(expected) < LOSSES, name


def compare_gradients(network: torch.nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    names = dict(network.named_parameters())
    assert set(theirs) - {"pose"} == set(names)
    for name, parameter in names.items():
        assert difference(parameter.grad, theirs[name]) < GRADIENTS, name


@pytest.mark.parametrize("name", golden.NAMES)
def test_networks(name: str) -> None:
    network, arrays = golden.model(name), golden.section(golden.arrays(name), "net")
    x = arrays["x"]
    out = network.implicit_network(x)
    gradient = network.implicit_network.gradient(x).squeeze(1)
    rgb = network.rendering_network(x, gradient, arrays["view_dirs"], out[:, 1:])
    assert difference(out, arrays["out"]) < VALUES
    assert difference(network.implicit_network.sdf(x), arrays["out"][:, 0]) < VALUES
    assert difference(gradient, arrays["grad"].reshape(gradient.shape)) < VALUES
    assert difference(rgb, arrays["rgb"]) < COLOURS


@pytest.mark.parametrize("view", ["eval0", "eval7"])
@pytest.mark.parametrize("name", golden.NAMES)
def test_evaluation(name: str, view: str) -> None:
    network, arrays = golden.model(name).eval(), golden.section(golden.arrays(name), view)
    compare_outputs(network(inputs(arrays)), golden.section(arrays, "out"))


@pytest.mark.parametrize("name", golden.NAMES)
def test_training_without_random_rays(name: str) -> None:
    network, arrays = golden.model(name).train(), golden.section(golden.arrays(name), "train")
    outputs = network(inputs(arrays))
    losses = IDRLoss(0.0, 100.0, 50.0)(outputs, {"rgb": arrays["gt.rgb"]})
    losses["loss"].backward()
    compare_outputs(outputs, golden.section(arrays, "out"))
    compare_losses(losses, golden.section(arrays, "loss"), ("loss", "rgb_loss", "mask_loss"))
    compare_gradients(network, golden.section(arrays, "grad"))


@pytest.mark.parametrize("name", golden.NAMES)
def test_trained_cameras_without_random_rays(name: str) -> None:
    network, arrays = golden.model(name).train(), golden.section(golden.arrays(name), "traincam")
    given = inputs(arrays)
    given["pose"] = given["pose"].clone().requires_grad_(True)
    outputs = network(given)
    losses = IDRLoss(0.0, 100.0, 50.0)(outputs, {"rgb": arrays["gt.rgb"]})
    losses["loss"].backward()
    compare_outputs(outputs, golden.section(arrays, "out"))
    compare_losses(losses, golden.section(arrays, "loss"), ("loss", "rgb_loss", "mask_loss"))
    gradients = golden.section(arrays, "grad")
    compare_gradients(network, gradients)
    assert difference(given["pose"].grad, gradients["pose"].reshape(given["pose"].shape)) < GRADIENTS


@pytest.mark.parametrize("name", golden.NAMES)
def test_whole_step(name: str) -> None:
    network, arrays = golden.model(name).train(), golden.section(golden.arrays(name, "step.npz"), "full")
    network.load_state_dict(golden.section(arrays, "param"))
    given = inputs(arrays)
    given["pose"] = given["pose"].clone().requires_grad_(True)
    draws = StepDraws(arrays["draw.depths"], arrays["draw.eikonal"])
    outputs = network({**given, "draws": draws})
    losses = IDRLoss(0.1, 100.0, 200.0)(outputs, {"rgb": arrays["gt.rgb"]})
    losses["loss"].backward()

    theirs = golden.section(arrays, "out")
    compare_outputs(outputs, theirs)
    agree = torch.cat((torch.ones(draws.eikonal_points.shape[0], dtype=torch.bool), same_points(outputs, theirs)))
    assert difference(outputs["grad_theta"][agree], theirs["grad_theta"][agree]) < GRADIENTS
    compare_losses(losses, golden.section(arrays, "loss"), ("loss", "rgb_loss", "mask_loss", "eikonal_loss"))
    gradients = golden.section(arrays, "grad")
    compare_gradients(network, gradients)
    assert difference(given["pose"].grad, gradients["pose"].reshape(given["pose"].shape)) < GRADIENTS


@pytest.mark.parametrize("camera", range(4))
def test_projection_decomposition(camera: int) -> None:
    arrays = golden.arrays("a")
    intrinsics, pose = decompose_projection(arrays[f"P{camera}"].numpy())
    assert difference(torch.from_numpy(intrinsics).float(), arrays[f"P{camera}.K"].float()) < VALUES
    assert difference(torch.from_numpy(pose).float(), arrays[f"P{camera}.pose"].float()) < VALUES


def test_rotation_to_quaternion() -> None:
    arrays = golden.section(golden.arrays("a"), "quat")
    expected = torch.where(arrays["q"][:, :1] < 0, -arrays["q"], arrays["q"])
    assert difference(rotation_to_quaternion(arrays["R"]), expected) < VALUES
    assert difference(quaternion_to_rotation(arrays["q"]), arrays["R"]) < VALUES
