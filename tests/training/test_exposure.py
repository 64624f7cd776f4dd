"""Learned exposures: the colors that the loss compares, their gauge, and what training finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from idr.errors import InputError
from idr.training.config import ExposureConfig
from idr.training.exposure import Exposure
from idr.training.progress import squared_error
from tests.training import tiny

CPU = torch.device("cpu")
PER_IMAGE = "\ntrain.exposure { type = per_image, learning_rate = 0.02 }\n"


def exposure(num_images: int = 4, **keys: Any) -> Exposure:
    """Exposures with values other than 0, of mean 0."""
    made = Exposure(num_images, ExposureConfig(type="per_image", **keys), CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for table in made.parameters():
            table.copy_(0.3 * torch.randn(table.shape, generator=generator))
            table -= table.mean(dim=0)
    return made


def outputs_of(images: int, pixels: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    count = images * pixels
    rgb = torch.rand(count, 3, generator=generator) * 2 - 1
    hit, inside = (torch.rand(count, generator=generator) > 0.3 for _ in range(2))
    return {"rgb_values": rgb, "network_object_mask": hit, "object_mask": inside}


def test_shaded_rays_show_the_gain_and_offset_of_their_image() -> None:
    learned, indices = exposure(), torch.tensor([2, 0, 2])
    outputs = outputs_of(3, 7)
    seen = learned(indices, outputs, torch.zeros(3, 7, 3))["rgb_values"]
    for ray in range(21):
        image = indices[ray // 7]
        color = (outputs["rgb_values"][ray] + 1) / 2
        expected = (learned.log_gain[image].exp() * color + learned.offset[image]) * 2 - 1
        if not (outputs["network_object_mask"][ray] and outputs["object_mask"][ray]):
            expected = outputs["rgb_values"][ray]
        torch.testing.assert_close(seen[ray], expected, rtol=0, atol=1e-6)


def test_gradients_are_those_of_the_batchs_views_in_double_precision() -> None:
    learned, indices, outputs = exposure().double(), torch.tensor([3, 1]), outputs_of(2, 5)
    rgb, photo = outputs["rgb_values"].double(), torch.zeros(2, 5, 3)

    def colors(values: torch.Tensor, log_gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        tables = {"log_gain": log_gain, "offset": offset}
        return torch.func.functional_call(
            learned, tables, (indices, {**outputs, "rgb_values": values}, photo)
        )["rgb_values"]

    inputs = [value.detach().requires_grad_() for value in (rgb, learned.log_gain, learned.offset)]
    assert torch.autograd.gradcheck(colors, inputs)
    colors(*inputs).sum().backward()
    for table in inputs[1:]:
        assert table.grad is not None
        assert table.grad.abs().sum(dim=1).gt(0).tolist() == [False, True, False, True]


def test_an_excluded_ray_carries_no_nan_into_the_gradient() -> None:
    learned, outputs = exposure(), outputs_of(1, 6)
    excluded = ~(outputs["network_object_mask"] & outputs["object_mask"])
    outputs["rgb_values"][excluded] = torch.nan
    seen = learned(torch.tensor([1]), outputs, torch.zeros(1, 6, 3))["rgb_values"]
    seen[~excluded].sum().backward()
    assert excluded.any() and all(table.grad.isfinite().all() for table in learned.parameters())


def test_beyond_a_saturated_photograph_there_is_neither_an_error_nor_a_gradient() -> None:
    learned, every = exposure(num_images=2), torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        learned.log_gain.fill_(0.5), learned.offset.zero_()
    rgb = torch.tensor([[0.9, 0.9, -0.9]]).repeat(3, 1)  # seen as 2.1, 2.1, -0.8
    outputs = {"rgb_values": rgb, "network_object_mask": every, "object_mask": every}
    photo = torch.tensor([[[1.0, 0.9, 1.0]]]).repeat(1, 3, 1)
    seen = learned(torch.tensor([0]), outputs, photo)["rgb_values"]
    expected = (rgb[0] + 1) * float(torch.tensor(0.5).exp()) - 1
    torch.testing.assert_close(seen[0], torch.tensor([1.0, float(expected[1]), float(expected[2])]))
    (seen - photo.view(-1, 3)).abs().sum().backward()
    assert learned.log_gain.grad is not None
    assert learned.log_gain.grad[0].ne(0).tolist() == [False, True, True]


def test_a_step_keeps_the_means_over_views_and_clears_the_gradients() -> None:
    learned = exposure()
    before = learned.log_gain.detach().clone()
    (learned.log_gain[1].sum() + learned.offset[2].sum()).backward()
    learned.step()
    for table in learned.parameters():
        assert float(table.detach().mean(dim=0).abs().max()) < 1e-7 and table.grad is None
    assert float((learned.log_gain.detach() - before).abs().max()) > 1e-3


def test_another_color_of_the_scene_gives_the_same_photographs_in_the_same_gauge() -> None:
    """The docstring's claim: any gains and offsets have an equivalent with means of 0."""
    generator = torch.Generator().manual_seed(2)
    log_gain, offset = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    color = torch.rand(5, 1, 3, generator=generator, dtype=torch.float64)
    shown = log_gain.exp() * color + offset
    scale = log_gain.mean(dim=0).exp()
    centered = log_gain - scale.log()
    shift = offset.mean(dim=0) / centered.exp().mean(dim=0)
    new_offset = offset - centered.exp() * shift
    assert float(new_offset.mean(dim=0).abs().max()) < 1e-12
    torch.testing.assert_close(centered.exp() * (scale * color + shift) + new_offset, shown)


def test_the_penalty_is_the_weighted_mean_square_over_views() -> None:
    learned = exposure(weight=0.5)
    losses = learned.add_penalty({"loss": torch.tensor(2.0), "rgb_loss": torch.tensor(1.0)})
    expected = 0.5 * sum(float((table.detach() ** 2).sum()) for table in learned.parameters()) / 4
    assert float(losses["exposure_loss"].detach()) == pytest.approx(expected)
    assert float(losses["loss"].detach()) == pytest.approx(2 + expected) and losses["rgb_loss"] == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight": 0.1}, "weight: belongs to type = per_image, got type = fixed"),
        ({"type": "per_image", "learning_rate": 0.0}, "learning_rate = 0.0: expected a learning rate above"),
        ({"type": "per_image", "weight": -1.0}, "weight = -1.0: expected 0 or more"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExposureConfig(**keys)


def test_gains_and_offsets_of_known_colors_are_found_although_photographs_saturate() -> None:
    """With the scene's colors given, the L1 loss has its minimum at the true values, here of mean 0."""
    unsaturated = torch.zeros(2, 100, 3)
    truth, learned = exposure(), Exposure(4, ExposureConfig(type="per_image", weight=0.0), CPU)
    for number in range(1200):
        learned.apply_rate(1.0 if number < 1000 else 0.1)
        indices = torch.randperm(4)[:2]
        outputs = outputs_of(2, 100)
        photographs = truth(indices, outputs, unsaturated)["rgb_values"].detach().clamp(-1, 1)
        seen = learned(indices, outputs, photographs.view(2, -1, 3))["rgb_values"]
        (seen - photographs).abs().mean().backward()
        learned.step()
    for found, expected in zip(learned.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


class SeenLoss(tiny.WatchedLoss):
    """Keeps the outputs that the loss received."""

    def __call__(self, outputs: Any, truth: Any) -> Any:
        self.outputs = outputs
        return super().__call__(outputs, truth)


def test_loss_psnr_and_error_maps_see_the_photographs_exposure(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text() + tiny.SCHEDULE + PER_IMAGE
    trainer = tiny.make_trainer(
        scene_root, tmp_path, conf=conf, batch_size=2, loss=lambda loss: SeenLoss(loss, lambda number: None)
    )
    model, learned, residuals = trainer.model, trainer.state.exposure, []
    rendered: dict[str, Any] = {}
    trainer.model = lambda inputs: rendered.setdefault("outputs", model(inputs))
    trainer.rays.update_errors = lambda batch, outputs: residuals.append(outputs)  # type: ignore[method-assign]
    assert learned is not None
    with torch.no_grad():
        learned.log_gain[0], learned.log_gain[1] = 0.3, -0.3
    before = learned.log_gain.detach().clone()
    batch = next(iter(trainer.rays.batches(0, 0, 0, lambda step: 1)))
    trainer._apply(trainer.schedule.at(0, 0))
    losses, error, _ = trainer._train_step(batch)
    seen, plain = (outputs["rgb_values"].detach() for outputs in (trainer.loss.outputs, rendered["outputs"]))
    shaded = rendered["outputs"]["network_object_mask"] & rendered["outputs"]["object_mask"]
    assert bool(shaded.any())
    gains = before[batch.indices].exp().repeat_interleave(len(plain) // 2, dim=0)  # (R, 3); offsets are 0
    torch.testing.assert_close(seen[shaded], (gains * (plain + 1) - 1)[shaded])
    assert torch.equal(seen[~shaded], plain[~shaded])
    assert residuals == [trainer.loss.outputs]
    assert torch.equal(error, squared_error(trainer.loss.outputs, batch.ground_truth["rgb"]))
    assert float(losses["exposure_loss"].detach()) > 0
    assert float((learned.log_gain.detach() - before).abs().max()) > 1e-4


def test_with_fixed_exposures_a_checkpoint_has_no_such_part(scene_root: Path, tmp_path: Path) -> None:
    assert tiny.make_trainer(scene_root, tmp_path, nepoch=1).train()
    assert "ExposureState" not in tiny.parts_of(tmp_path)
    assert not any("exposure" in name for name in tiny.metrics_rows(tmp_path)[0])


def resume(root: Path, run: Path, conf: str, holdout: str = "") -> Any:
    conf = tiny.conf_text(dataset=holdout) + conf
    trainer = tiny.make_trainer(root, run, conf=conf)
    trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
    return trainer


def test_exposures_start_anew_or_are_refused_where_they_do_not_fit(
    scene_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, added in (("fixed", ""), ("per_image", PER_IMAGE)):
        conf = tiny.conf_text() + added
        assert tiny.make_trainer(scene_root, tmp_path / name, nepoch=1, conf=conf).train()
    fresh = resume(scene_root, tmp_path / "fixed", PER_IMAGE)
    assert "holds no ExposureState: the exposures start anew" in caplog.text
    assert not bool(fresh.state.exposure.log_gain.any())
    with pytest.raises(
        InputError, match=r"holds exposures .*\(ExposureState\).*; continue it with train.exp"
    ):
        resume(scene_root, tmp_path / "per_image", "")
    with pytest.raises(InputError, match=r"holds exposures of 5 images .*, the scene has 4; continue with"):
        resume(scene_root, tmp_path / "per_image", PER_IMAGE, "holdout = [2]")
