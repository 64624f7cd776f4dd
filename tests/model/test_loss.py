"""The losses, against sums over rays in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idr.errors import InputError
from idr.model.loss import IDRLoss, LossConfig

DOUBLE = torch.float64
WEIGHTS = (0.1, 100.0, 50.0)


def slow_losses(
    outputs: dict, rgb: torch.Tensor, eikonal_weight: float, mask_weight: float, alpha: float
) -> dict:
    """SPEC section 6, one ray at a time."""
    num_rays = len(outputs["points"])
    rgb_sum = mask_sum = 0.0
    for ray, truth in enumerate(rgb.reshape(-1, 3).tolist()):
        inside = bool(outputs["object_mask"][ray])
        if bool(outputs["network_object_mask"][ray]) and inside:
            rgb_sum += sum(
                abs(a - b) for a, b in zip(outputs["rgb_values"][ray].tolist(), truth, strict=True)
            )
        else:
            logit = -alpha * outputs["sdf_output"][ray, 0].item()
            wrong = -logit if inside else logit  # -log sigmoid(-wrong) = log(1 + e^wrong)
            mask_sum += (max(wrong, 0.0) + math.log1p(math.exp(-abs(wrong)))) / alpha
    eikonal = 0.0
    if outputs["grad_theta"] is not None and len(outputs["grad_theta"]):
        rows = outputs["grad_theta"].tolist()
        eikonal = sum((math.sqrt(sum(a * a for a in row)) - 1) ** 2 for row in rows) / len(rows)
    rgb_loss, mask_loss = rgb_sum / num_rays, mask_sum / num_rays
    return {
        "loss": rgb_loss + eikonal_weight * eikonal + mask_weight * mask_loss,
        "rgb_loss": rgb_loss,
        "mask_loss": mask_loss,
        "eikonal_loss": eikonal,
    }


def random_outputs(num_images: int, num_pixels: int, seed: int, hit: float = 0.5, inside: float = 0.5):
    generator = torch.Generator().manual_seed(seed)
    num_rays = num_images * num_pixels

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    outputs = {
        "points": normal(num_rays, 3),
        "rgb_values": torch.tanh(normal(num_rays, 3)),
        "sdf_output": 0.3 * normal(num_rays, 1),
        "network_object_mask": torch.rand(num_rays, generator=generator) < hit,
        "object_mask": torch.rand(num_rays, generator=generator) < inside,
        "grad_theta": normal(num_rays // 2 + num_rays, 3),
    }
    return outputs, torch.tanh(normal(num_images, num_pixels, 3))


def compare(outputs: dict, rgb: torch.Tensor, weights=WEIGHTS) -> dict:
    losses = IDRLoss(*weights)(outputs, {"rgb": rgb})
    expected = slow_losses(outputs, rgb, *weights)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].shape == () and torch.isfinite(losses[name])
        assert losses[name].item() == pytest.approx(value, rel=1e-12, abs=1e-14)  # float64 sums of 100 terms
    return losses


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 1000),
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.floats(1, 1600),
)
def test_losses_equal_the_loop(seed, num_images, num_pixels, hit, inside, alpha) -> None:
    compare(*random_outputs(num_images, num_pixels, seed, hit, inside), weights=(0.1, 100.0, alpha))


def test_nothing_hit() -> None:
    losses = compare(*random_outputs(1, 12, seed=0, hit=0.0))
    assert losses["rgb_loss"] == 0 and losses["mask_loss"] > 0


def test_empty_mask() -> None:
    losses = compare(*random_outputs(1, 12, seed=1, inside=0.0))
    assert losses["rgb_loss"] == 0 and losses["mask_loss"] > 0


def test_every_ray_shaded() -> None:
    losses = compare(*random_outputs(1, 12, seed=2, hit=1.1, inside=1.1))
    assert losses["mask_loss"] == 0 and losses["rgb_loss"] > 0


def test_one_pixel() -> None:
    compare(*random_outputs(1, 1, seed=3))


@pytest.mark.parametrize("grad_theta", [None, torch.zeros(0, 3, dtype=DOUBLE)])
def test_no_eikonal_points(grad_theta) -> None:
    outputs, rgb = random_outputs(1, 6, seed=4)
    assert compare({**outputs, "grad_theta": grad_theta}, rgb)["eikonal_loss"] == 0


def test_divided_by_all_rays() -> None:
    outputs, rgb = random_outputs(1, 8, seed=5, hit=1.1, inside=1.1)
    shaded = IDRLoss(*WEIGHTS)(outputs, {"rgb": rgb})["rgb_loss"]
    outputs["network_object_mask"] = torch.arange(8) < 4
    half = IDRLoss(*WEIGHTS)(outputs, {"rgb": rgb})["rgb_loss"]
    per_ray = (outputs["rgb_values"] - rgb[0]).abs().sum(dim=1)
    assert shaded.item() == pytest.approx(per_ray.sum().item() / 8)
    assert half.item() == pytest.approx(per_ray[:4].sum().item() / 8)  # 8, although 4 are shaded


def test_an_integer_weight_equals_a_repeated_ray() -> None:
    """The divisor remains the number of rays without repetition."""
    outputs, rgb = random_outputs(2, 12, seed=7)
    weights = torch.randint(0, 4, (24,), generator=torch.Generator().manual_seed(0))
    weighted = IDRLoss(*WEIGHTS)(outputs, {"rgb": rgb, "weights": weights.view(2, 12).double()})
    rows = torch.arange(24).repeat_interleave(weights)
    repeated = {name: value[rows] for name, value in outputs.items() if name != "grad_theta"}
    counted = IDRLoss(*WEIGHTS)(
        {**repeated, "grad_theta": outputs["grad_theta"]}, {"rgb": rgb.reshape(-1, 3)[rows]}
    )
    for name in ("rgb_loss", "mask_loss"):
        assert weighted[name].item() == pytest.approx(counted[name].item() * len(rows) / 24)
    assert weighted["eikonal_loss"] == counted["eikonal_loss"]


def test_extreme_logits_stay_finite() -> None:
    outputs, rgb = random_outputs(1, 4, seed=6, hit=0.0)
    outputs["sdf_output"] = torch.tensor([[50.0], [-50.0], [50.0], [-50.0]], dtype=DOUBLE)
    outputs["object_mask"] = torch.tensor([True, True, False, False])
    losses = compare(outputs, rgb, weights=(0.1, 100.0, 1600.0))
    assert losses["mask_loss"].item() == pytest.approx(2 * 50 / 4)  # two rays are wrong by 50 each


def test_attributes_are_read_at_each_call() -> None:
    outputs, rgb = random_outputs(2, 10, seed=7)
    loss = IDRLoss(eikonal_weight=0.1, mask_weight=100.0, alpha=50.0)
    loss(outputs, {"rgb": rgb})
    loss.eikonal_weight, loss.mask_weight, loss.alpha = 0.7, 3.0, 400.0
    expected = slow_losses(outputs, rgb, 0.7, 3.0, 400.0)
    assert loss(outputs, {"rgb": rgb})["loss"].item() == pytest.approx(expected["loss"], rel=1e-12)
    assert not list(loss.parameters()) and not loss.state_dict()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_excluded_rays_contribute_nothing(bad: float) -> None:
    outputs, rgb = random_outputs(1, 12, seed=8)
    shaded = outputs["network_object_mask"] & outputs["object_mask"]
    assert shaded.any() and not shaded.all()
    clean = IDRLoss(*WEIGHTS)(outputs, {"rgb": rgb})
    outputs["rgb_values"][~shaded] = bad
    outputs["sdf_output"][shaded] = bad
    outputs["rgb_values"].requires_grad_(True)
    outputs["sdf_output"].requires_grad_(True)
    losses = IDRLoss(*WEIGHTS)(outputs, {"rgb": rgb})
    losses["loss"].backward()
    for name, value in clean.items():
        assert torch.equal(losses[name], value)
    assert (
        torch.isfinite(outputs["rgb_values"].grad).all() and (outputs["rgb_values"].grad[~shaded] == 0).all()
    )
    assert torch.isfinite(outputs["sdf_output"].grad[~shaded]).all()


def test_gradcheck() -> None:
    outputs, rgb = random_outputs(1, 8, seed=9)
    names = ("rgb_values", "sdf_output", "grad_theta")
    given_tensors = tuple(outputs[name].requires_grad_(True) for name in names)

    def total(*tensors):
        return IDRLoss(0.1, 2.0, 5.0)({**outputs, **dict(zip(names, tensors, strict=True))}, {"rgb": rgb})[
            "loss"
        ]

    assert torch.autograd.gradcheck(total, given_tensors)


def test_sign_of_the_mask_gradient() -> None:
    outputs, rgb = random_outputs(1, 10, seed=10, hit=0.0)
    outputs["sdf_output"].requires_grad_(True)
    IDRLoss(*WEIGHTS)(outputs, {"rgb": rgb})["loss"].backward()
    inside = outputs["object_mask"]
    assert (outputs["sdf_output"].grad[inside] > 0).all()  # descent lowers f inside the mask
    assert (outputs["sdf_output"].grad[~inside] < 0).all()


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(InputError, match="loss.alpha = .*expected a sharpness above 0"):
        LossConfig(0.1, 100.0, alpha)
