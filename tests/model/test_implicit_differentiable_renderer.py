"""IDRNetwork: its inputs and outputs, edge cases and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from idr.errors import InputError
from idr.geometry.cameras import pixel_rays
from idr.model.implicit_differentiable_renderer import StepDraws, draw_step
from tests.model.networks import (
    camera_input,
    central_differences,
    idr_network,
    loss_of,
    roughen,
    without_surface,
)

# --- inputs and outputs
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_shapes_and_types(training: bool, vectors: bool) -> None:
    batch = camera_input(vectors=vectors)
    outputs = idr_network().train(training)(batch)
    shapes = {name: None if value is None else tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "points": (40, 3),
        "rgb_values": (40, 3),
        "sdf_output": (40, 1),
        "network_object_mask": (40,),
        "object_mask": (40,),
        "grad_theta": (60, 3) if training else None,
        **({"surface_points": (40, 3)} if training else {}),
    }
    assert outputs["network_object_mask"].dtype == outputs["object_mask"].dtype == torch.bool
    assert torch.equal(outputs["object_mask"], batch["object_mask"].reshape(-1))
    assert outputs["points"].dtype == outputs["rgb_values"].dtype == torch.float32
    hit = outputs["network_object_mask"]
    assert 5 < hit.sum() < 40
    shaded = hit & outputs["object_mask"] if training else hit
    assert (outputs["rgb_values"][~shaded] == 1).all() and (outputs["rgb_values"].abs() <= 1).all()


def test_rays_are_flattened_image_by_image() -> None:
    batch = camera_input()
    outputs = idr_network().eval()(batch)
    directions, centers = pixel_rays(batch["uv"], batch["pose"], batch["intrinsics"])
    from_center = outputs["points"].reshape(2, 20, 3) - centers[:, None]
    along = (from_center * directions).sum(dim=2, keepdim=True)
    assert (from_center - along * directions).abs().max() < 1e-5  # float32: points lie on their rays


@pytest.mark.parametrize("strategy", ["published", "accelerated"])
def test_hits_are_on_the_surface_and_values_are_those_at_the_points(strategy: str) -> None:
    network = idr_network(ray_tracer__strategy=strategy).double().eval()
    outputs = network(camera_input(dtype=torch.float64))
    hit, values = outputs["network_object_mask"], outputs["sdf_output"]
    assert 5 < hit.sum() < len(hit) - 5
    assert values[hit].abs().max() < 1e-4  # the threshold, 5e-5
    expected = network.implicit_network(outputs["points"])[:, :1]
    assert (values[hit] - expected[hit]).abs().max() < 1e-12  # products of another shape round differently
    # Elsewhere the accelerated tracer returns the value of its grid, which is coarse, but never negative.
    inside = outputs["points"].norm(dim=1) <= 1.0
    assert (values - expected)[inside].abs().max() <= (0 if strategy == "published" else 0.05)
    assert (values[~hit] > 0).all()


def test_colors_of_hits_are_those_of_the_rendering_network() -> None:
    network = idr_network().double().eval()
    batch = camera_input(dtype=torch.float64)
    outputs = network(batch)
    directions, _ = pixel_rays(batch["uv"], batch["pose"], batch["intrinsics"])
    hit = outputs["network_object_mask"]
    points = outputs["points"][hit].detach()
    normals = central_differences(lambda x: network.implicit_network.sdf(x).detach(), points, 1e-6)
    features = network.implicit_network(points)[:, 1:]
    colors = network.rendering_network(points, normals, -directions.reshape(-1, 3)[hit], features)
    assert (outputs["rgb_values"][hit] - colors).abs().max() < 1e-6  # finite differences


def test_evaluation_ignores_the_mask() -> None:
    network, batch = idr_network().eval(), camera_input()
    expected = network(batch)
    for mask in (torch.zeros_like(batch["object_mask"]), torch.ones_like(batch["object_mask"])):
        outputs = network({**batch, "object_mask": mask})
        for name in ("points", "rgb_values", "sdf_output", "network_object_mask"):
            assert torch.equal(outputs[name], expected[name]), name


def test_evaluation_is_the_same_with_and_without_gradients() -> None:
    network, batch = idr_network().eval(), camera_input()
    expected = network(batch)
    with torch.no_grad():
        outputs = network(batch)
    for name in ("points", "rgb_values", "sdf_output", "network_object_mask"):
        # Without gradients a kernel computes f's gradient, with another rounding.
        assert torch.allclose(outputs[name].float(), expected[name].float(), rtol=1e-5, atol=1e-6), name
        assert not outputs[name].requires_grad


GRID = {"type": "hashgrid", "levels": 4, "log2_table": 10, "base_resolution": 4, "finest_resolution": 16}


@pytest.mark.parametrize("changes", [{}, {"multires": 0, "skip_in": [], "encoding": GRID}])
def test_segments_are_free_where_dense_samples_of_f_are_positive(changes: dict[str, Any]) -> None:
    """From cameras around a rough ball to points on both of its sides; most far ones are hidden."""
    network = idr_network(**{f"implicit_network__{key}": value for key, value in changes.items()})
    roughen(network.implicit_network, 0.02, seed=3)
    generator, margin = torch.Generator().manual_seed(1), 0.03
    origins, targets = (
        torch.nn.functional.normalize(torch.randn(300, 3, generator=generator), dim=1) for _ in range(2)
    )
    origins, targets = 2.5 * origins, targets * (0.4 + 0.5 * torch.rand(300, 1, generator=generator))
    free = network.is_free(origins, targets, margin)
    length = (targets - origins).norm(dim=1, keepdim=True)
    depths = torch.linspace(0, 1, 4000) * (length - margin)  # (R, S)
    points = origins[:, None] + depths[..., None] * ((targets - origins) / length)[:, None]
    with torch.no_grad():
        f = network.implicit_network(points.reshape(-1, 3))[:, 0].reshape(depths.shape)
    lowest = torch.where(points.norm(dim=2) <= 1, f, torch.full_like(f, torch.inf)).min(dim=1).values
    clear = lowest.abs() > 1e-3  # of grazing segments either answer is right
    assert clear.float().mean() > 0.9 and 60 < free[clear].sum() < clear.sum() - 60
    assert torch.equal(free[clear], lowest[clear] > 0)
    assert network.is_free(origins[:0], targets[:0], margin).shape == (0,)


def test_one_pixel_and_no_pixel() -> None:
    network = idr_network()
    for num_pixels in (1, 0):
        batch = camera_input(num_images=1, num_pixels=num_pixels)
        assert network.eval()(batch)["rgb_values"].shape == (num_pixels, 3)
    outputs = network.train()(camera_input(num_images=1, num_pixels=1))
    assert outputs["grad_theta"].shape == (1, 3)  # floor(1 / 2) random points, then the ray's
    assert torch.isfinite(loss_of(outputs, 1, 1)["loss"])


def test_float64_throughout() -> None:
    network = idr_network().double()
    for training in (False, True):
        outputs = network.train(training)(camera_input(dtype=torch.float64))
        for name in ("points", "rgb_values", "sdf_output"):
            assert outputs[name].dtype == torch.float64
    assert outputs["grad_theta"].dtype == torch.float64


# --- draws --------------------------------------------------------------------------------------------------


def test_draws_of_the_input_are_used() -> None:
    network = idr_network(ray_tracer__strategy="published").train()
    batch = camera_input()
    draws = draw_step(40, network.tracer_config, torch.zeros(1), torch.Generator().manual_seed(3))
    assert draws.depths.shape == (40,) and draws.eikonal_points.shape == (20, 3)
    first, second = network({**batch, "draws": draws}), network({**batch, "draws": draws})
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    expected = network.implicit_network.gradient(torch.cat((draws.eikonal_points, first["points"].detach())))
    assert torch.equal(first["grad_theta"], expected.squeeze(1))
    others = StepDraws(torch.zeros(40), draws.eikonal_points)
    moved = network({**batch, "draws": others})["points"]
    assert not torch.equal(moved, first["points"])  # other samples give another minimum


def test_draws_depend_on_the_generator_alone() -> None:
    batch = camera_input()

    def points(seed: int, global_seed: int) -> torch.Tensor:
        network = idr_network().train()
        torch.manual_seed(global_seed)
        return network({**batch, "generator": torch.Generator().manual_seed(seed)})["grad_theta"]

    assert torch.equal(points(1, 10), points(1, 11))
    assert not torch.equal(points(1, 10), points(2, 10))


def test_drawn_numbers_fill_their_ranges() -> None:
    config = idr_network(ray_tracer__object_bounding_sphere=1.2, ray_tracer__n_steps=500).tracer_config
    draws = draw_step(2001, config, torch.zeros(1, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert draws.depths.shape == (500,) and draws.eikonal_points.shape == (1000, 3)
    assert draws.depths.dtype == draws.eikonal_points.dtype == torch.float64
    # The extremes of 500 and 3000 uniform numbers miss the ends by 1 % with probabilities below 1e-2 and
    # 1e-12.
    assert 0 <= draws.depths.min() < 0.02 and 0.98 < draws.depths.max() < 1
    assert draws.eikonal_points.abs().max() <= 1.2 and draws.eikonal_points.abs().max() > 1.18
    assert draws.eikonal_points.mean().abs() < 5 * 1.2 / 3**0.5 / 3000**0.5  # five standard deviations


# --- gradients ----------------------------------------------------------------------------------------------


def test_total_gradient_equals_finite_differences() -> None:
    """The derivative of the RGB loss by network and camera, against tracing again at shifted values."""
    network = (
        idr_network(ray_tracer__sdf_threshold=1e-9, ray_tracer__sphere_tracing_iters=40).double().train()
    )
    roughen(network.rendering_network, 0.5, seed=1)
    batch = camera_input(num_images=1, num_pixels=90, dtype=torch.float64, vectors=True)
    batch["object_mask"] = torch.ones_like(batch["object_mask"])
    draws = draw_step(90, network.tracer_config, batch["uv"], torch.Generator().manual_seed(0))
    # Rays that graze or miss the surface may change between hit and miss; only the others are used.
    with torch.no_grad():
        keep = network({**batch, "draws": draws})["network_object_mask"]
    batch["uv"], batch["object_mask"] = batch["uv"][:, keep], batch["object_mask"][:, keep]
    assert 8 < keep.sum() < 90

    def rgb_loss(pose: torch.Tensor) -> torch.Tensor:
        outputs = network({**batch, "pose": pose, "draws": draws})
        return loss_of(outputs, 1, int(keep.sum()))["rgb_loss"]

    rgb_loss(batch["pose"]).backward()
    pose = batch["pose"].detach()
    numerical = central_differences(lambda p: rgb_loss(p).detach().unsqueeze(0), pose, 1e-5)
    # Traced depths have errors up to the threshold over the cosine, 1e-8; divided by the step 2e-5: 1e-3.
    assert (batch["pose"].grad - numerical).abs().max() < 2e-3 * numerical.abs().max()
    bias = network.implicit_network.lin0.bias
    index = bias.grad.abs().argmax().item()
    with torch.no_grad():
        bias[index] += 1e-5
        above = rgb_loss(pose).item()
        bias[index] -= 2e-5
        below = rgb_loss(pose).item()
        bias[index] += 1e-5
    assert bias.grad[index].item() == pytest.approx((above - below) / 2e-5, rel=5e-3)


def test_mask_loss_moves_cameras() -> None:
    network = idr_network().train()
    batch = camera_input(vectors=True)
    loss_of(network(batch))["mask_loss"].backward()
    assert torch.isfinite(batch["pose"].grad).all() and batch["pose"].grad.any()


def test_min_abs_cos_changes_derivatives_and_no_value() -> None:
    outputs, gradients = [], []
    for bound in (0.0, 1e-9, 1.0):
        network = idr_network(min_abs_cos=bound).double().train()
        draws = draw_step(
            40, network.tracer_config, torch.zeros(0).double(), torch.Generator().manual_seed(3)
        )
        batch = {**camera_input(dtype=torch.float64), "draws": draws}
        outputs.append(network(batch)["rgb_values"])
        outputs[-1].sum().backward()
        gradients.append(network.implicit_network.get_parameter("lin0.bias").grad)
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(gradients[0], gradients[1])  # no ray is that close to a tangent
    assert not torch.allclose(gradients[0], gradients[2], rtol=0.01)
    with pytest.raises(InputError, match="model.min_abs_cos = 2.0: expected a cosine, 0 to 1"):
        idr_network(min_abs_cos=2.0)


def test_eikonal_loss_does_not_move_cameras() -> None:
    network = idr_network().train()
    batch = camera_input(vectors=True)
    loss_of(network(batch))["eikonal_loss"].backward()
    assert batch["pose"].grad is None or not batch["pose"].grad.any()


@pytest.mark.parametrize("case", ["no surface", "empty mask", "no surface and empty mask", "full mask"])
def test_training_without_shaded_rays_is_finite(case: str) -> None:
    network = idr_network().train()
    batch = camera_input(vectors=True)
    if "no surface" in case:
        without_surface(network)
    if "mask" in case:
        batch["object_mask"] = torch.full_like(batch["object_mask"], case == "full mask")
    outputs = network(batch)
    if "no surface" in case:
        assert not outputs["network_object_mask"].any()
    losses = loss_of(outputs)
    assert all(torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(batch["pose"].grad).all()
    assert network.implicit_network.lin0.weight_v.grad.any()  # from mask and Eikonal term
    assert torch.isfinite(outputs["points"]).all()
    if case != "full mask":
        assert (outputs["rgb_values"] == 1).all()
        assert not any(p.grad.any() for p in network.rendering_network.parameters())


@pytest.mark.parametrize("with_gradients", [True, False])
def test_evaluation_without_a_hit(with_gradients: bool) -> None:
    network = without_surface(idr_network()).eval()
    with torch.set_grad_enabled(with_gradients):
        outputs = network(camera_input())
    assert not outputs["network_object_mask"].any() and (outputs["rgb_values"] == 1).all()
    assert torch.isfinite(outputs["points"]).all() and torch.isfinite(outputs["sdf_output"]).all()


def gradients(network: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Gradients of the three losses with respect to all parameters and the poses."""
    network.zero_grad()
    pose = batch["pose"].detach().clone().requires_grad_(True)
    loss_of(network(batch | {"pose": pose}))["loss"].backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()} | {"pose": pose.grad}


def test_shading_all_rays_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    network = idr_network(ray_tracer__strategy="fixed").double().train()
    batch = camera_input(vectors=True, dtype=torch.float64)
    batch["draws"] = draw_step(40, network.tracer_config, batch["pose"], torch.Generator().manual_seed(0))
    shaded_alone: dict[str, torch.Tensor] = {}
    with monkeypatch.context() as patch:
        patch.setattr(type(network.ray_tracer), "fixed_shapes", False)
        shaded_alone = gradients(network, batch)
    found = gradients(network, batch)
    assert found.keys() == shaded_alone.keys()
    for name, expected in shaded_alone.items():
        assert (found[name] - expected).abs().max() <= 1e-12 * (1 + expected.abs().max()), name


def test_rays_that_are_not_shaded_have_no_derivative_that_is_not_finite() -> None:
    network = idr_network(ray_tracer__strategy="fixed").train()
    batch = camera_input()
    with torch.no_grad():
        outputs = network(batch)
    shaded = outputs["network_object_mask"] & outputs["object_mask"]
    assert 0 < shaded.sum() < 40
    original = network.implicit_network.sdf_and_gradient

    def almost_flat(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, gradient = original(x)
        flat = torch.cat((torch.zeros(20, dtype=torch.bool), ~shaded))
        return values, torch.where(flat.unsqueeze(1), 1e-42, gradient)  # 1 / slope overflows

    network.implicit_network.sdf_and_gradient = almost_flat  # type: ignore[method-assign]
    assert all(gradient.isfinite().all() for gradient in gradients(network, batch).values())
