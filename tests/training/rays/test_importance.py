"""Which pixels importance draws, against slow loops over all pixels, and what it makes of residuals."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training import tiny
from tests.training.schedule.test_by_epoch import config

from idr.conf.files import read_block
from idr.datasets.scene_dataset import SceneDataset
from idr.errors import InputError
from idr.training.config import TrainConfig
from idr.training.rays.batches import RayBatches
from idr.training.rays.config import SamplerConfig
from idr.training.rays.error_maps import GRAIN, MIN_RESIDUAL, ErrorMaps, residuals_of
from idr.training.rays.importance import ImportanceSampler
from idr.training.rays.pixel_classes import FAR, INNER_BAND, INSIDE, OUTER_BAND, PLAIN, classify
from idr.training.schedule.checks import check_schedule

HEIGHT, WIDTH = 18, 22  # no multiples of the cell's side
CONFIG = SamplerConfig(
    type="importance",
    silhouette=0.3,
    silhouette_pixels=1.5,
    inside=0.1,
    error=0.2,
    error_cell=4,
    far_pixels=4.0,
    far=0.05,
)


class Disc:
    """Two views of a disc."""

    img_res = (HEIGHT, WIDTH)
    total_pixels = HEIGHT * WIDTH
    collate_fn = staticmethod(SceneDataset.collate_fn)

    def __init__(self) -> None:
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        discs = [np.hypot(rows - 8, columns - x) < 5.2 for x in (8, 10)]
        self.masks = torch.from_numpy(np.stack(discs)).reshape(2, -1)

    def __len__(self) -> int:
        return 2

    def sample_item(self, index: int, pixels: torch.Tensor) -> Any:
        uv = torch.stack((pixels % WIDTH, pixels // WIDTH), dim=1).float()
        sample = {"uv": uv, "object_mask": self.masks[index][pixels]}
        return index, sample, {"rgb": torch.full((len(pixels), 3), 0.25)}


def sampler_of(changed: SamplerConfig = CONFIG) -> ImportanceSampler:
    """A sampler whose error maps hold something."""
    sampler = ImportanceSampler(changed, Disc())
    sampler.maps.maps.copy_(torch.rand(sampler.maps.maps.shape, generator=torch.Generator().manual_seed(3)))
    return sampler


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def slow_kind(mask: np.ndarray, row: int, column: int) -> int:
    """A pixel's class by looking at all others."""
    rows, columns = np.nonzero(mask != mask[row, column])
    nearest = np.hypot(rows - row, columns - column).min()
    if mask[row, column]:
        return INNER_BAND if nearest <= 1.5 else INSIDE
    return OUTER_BAND if nearest <= 1.5 else FAR if nearest > 4 else PLAIN


def slow_probabilities(sampler: ImportanceSampler, view: int) -> np.ndarray:
    """The mixture that the conf's keys describe, pixel by pixel."""
    mask = sampler.dataset.masks[view].view(HEIGHT, WIDTH).numpy()
    kinds = np.array([[slow_kind(mask, r, c) for c in range(WIDTH)] for r in range(HEIGHT)])
    maps = sampler.maps.maps[view].double().numpy()
    residuals = np.array([[maps[r // 4, c // 4] for c in range(WIDTH)] for r in range(HEIGHT)])
    near, band, far = kinds != FAR, (kinds == OUTER_BAND) | (kinds == INNER_BAND), kinds == FAR
    rest = 1 - 0.3 - 0.1 - 0.2 - 0.05
    return (
        rest * near / near.sum()
        + 0.3 * band / band.sum()
        + 0.1 * mask / mask.sum()
        + 0.05 * far / far.sum()
        + 0.2 * residuals / residuals.sum()
    ).reshape(-1)


@pytest.mark.parametrize("view", [0, 1])
def test_probabilities_are_those_that_the_keys_describe(view: int) -> None:
    sampler = sampler_of()
    stated = sampler.probability(view, 1, torch.arange(HEIGHT * WIDTH)).numpy()
    # Sums of four quotients in float64.
    assert stated == pytest.approx(slow_probabilities(sampler, view), rel=1e-12)
    assert stated.sum() == pytest.approx(1, rel=1e-12) and stated.min() > 0


def test_pixels_are_drawn_with_the_stated_probabilities() -> None:
    """Chi-square over all pixels; strata only make the counts more even than independent draws."""
    sampler, count, rounds = sampler_of(), 64, 1200
    probability = slow_probabilities(sampler, 1)
    drawn = np.zeros(HEIGHT * WIDTH)
    for number in range(rounds):
        pixels = sampler.draw(1, 1, count, seeded(number)).pixels.numpy()
        assert len(pixels) == count
        np.add.at(drawn, pixels, 1)
    expected = count * rounds * probability
    chi_square = ((drawn - expected) ** 2 / expected).sum()
    freedom = HEIGHT * WIDTH - 1
    assert expected.min() > 5
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # four sigma
    assert chi_square > 0.3 * freedom  # and they are draws: no fixed raster of pixels


def test_the_test_of_draws_sees_a_wrong_share() -> None:
    """With a silhouette's share of 0.36 for 0.3 the same statistic is far beyond the same bound."""
    sampler = sampler_of(dataclasses.replace(CONFIG, silhouette=0.36))
    probability, drawn = slow_probabilities(sampler, 1), np.zeros(HEIGHT * WIDTH)
    for number in range(1200):
        np.add.at(drawn, sampler.draw(1, 1, 64, seeded(number)).pixels.numpy(), 1)
    expected = 64 * 1200 * probability
    freedom = HEIGHT * WIDTH - 1
    assert ((drawn - expected) ** 2 / expected).sum() > freedom + 10 * math.sqrt(2 * freedom)


def test_shares_come_out_even_in_every_single_draw() -> None:
    sampler = sampler_of(dataclasses.replace(CONFIG, error=0.0))
    kinds = sampler.classes(0, 1).kinds
    for number in range(50):
        drawn = kinds[sampler.draw(0, 1, 100, seeded(number)).pixels]
        assert abs(int((drawn == FAR).sum()) - 5) <= 1


@pytest.mark.parametrize("factor", [1, 2])
def test_weights_make_every_mean_over_rays_the_mean_over_pixels(factor: int) -> None:
    sampler = sampler_of(dataclasses.replace(CONFIG, reweight=True))
    total = HEIGHT // factor * (WIDTH // factor)
    values = torch.rand(total, generator=seeded(1)).double()
    means = []
    for number in range(600):
        draw = sampler.draw(0, factor, 50, seeded(number))
        assert draw.weights is not None
        means.append(float((draw.weights * values[draw.pixels]).mean()))
    error = np.std(means) / math.sqrt(len(means))
    assert np.mean(means) == pytest.approx(float(values.mean()), abs=4 * error)
    assert error < 0.01 * float(values.mean())


def test_a_draw_is_a_function_of_generator_and_maps() -> None:
    one, two = sampler_of(), sampler_of()
    two.draw(0, 1, 50, seeded(8))  # what was drawn before does not matter
    two.draw(0, 2, 50, seeded(8))
    draws = [sampler.draw(1, 1, 50, seeded(7)) for sampler in (one, two)]
    assert torch.equal(draws[0].pixels, draws[1].pixels) and torch.equal(draws[0].cells, draws[1].cells)
    two.maps.maps[1, 0, 0] = 50.0
    assert not torch.equal(draws[0].pixels, two.draw(1, 1, 50, seeded(7)).pixels)


def test_where_residuals_are_high_more_is_drawn() -> None:
    sampler = sampler_of()
    sampler.maps.maps.fill_(MIN_RESIDUAL)
    sampler.maps.maps[0, 3, 2] = 1.0
    cells = torch.cat([sampler.draw(0, 1, 60, seeded(n)).cells for n in range(50)])
    share = float((cells == 3 * 6 + 2).double().mean())
    assert 0.2 < share < 0.2 + 0.3  # nearly all of the error's share, and what the others draw there


@pytest.mark.parametrize(("factor", "mask"), [(2, "disc"), (4, "disc"), (1, "all")])
def test_every_pixel_of_a_reduced_image_can_be_drawn_and_no_other(factor: int, mask: str) -> None:
    sampler = sampler_of()
    if mask == "all":  # nothing is far, and there is no band: their shares go to the rest
        sampler.dataset.masks[:] = True
    total = HEIGHT // factor * (WIDTH // factor)
    probability = sampler.probability(0, factor, torch.arange(total))
    assert float(probability.sum()) == pytest.approx(1, rel=1e-12)
    drawn = torch.cat([sampler.draw(0, factor, 100, seeded(n)).pixels for n in range(200)])
    assert drawn.unique().tolist() == list(range(total))


def test_a_reduced_images_band_is_a_pixel_of_its_own_wide() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[:, :4] = True
    kinds = classify(mask, CONFIG, factor=4).kinds.view(6, 8)
    assert kinds[0].tolist() == [INSIDE, INSIDE, INSIDE, INNER_BAND, OUTER_BAND, FAR, FAR, FAR]


@pytest.mark.parametrize("factor", [1, 2])
def test_mixed_pixels_are_the_inner_strip_along_the_silhouette(factor: int) -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[1:, :5] = True
    mixed = classify(mask, dataclasses.replace(CONFIG, mixed_pixels=1.5), factor).mixed
    assert mixed is not None
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1, :5] = expected[1:, 4] = True  # also the pixel of which only a diagonal neighbor is outside
    assert torch.equal(mixed.view(6, 8), expected)
    assert classify(mask, CONFIG, factor).mixed is None


def test_draws_know_their_mixed_pixels() -> None:
    sampler = sampler_of(dataclasses.replace(CONFIG, mixed_pixels=1.5))
    draw = sampler.draw(0, 1, 200, seeded(0))
    assert draw.mixed is not None and draw.mixed.any()
    assert torch.equal(draw.mixed, sampler.classes(0, 1).kinds[draw.pixels] == INNER_BAND)  # band of 1.5 too


def test_colors_of_mixed_pixels_do_not_move_the_surface(scene_root: Path, tmp_path: Path) -> None:
    keys = "type = importance, inside = 0.5, silhouette = 0.3, error = 0, mixed_pixels = 1.5"
    conf = f"{tiny.conf_text()}\ntrain.sampler {{ {keys} }}\n"
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=conf, batch_size=2)
    batch = next(trainer.rays.batches(0, 0, 0))
    trainer.state.model.train()
    outputs = trainer.model(batch.model_input)
    shaded = (outputs["network_object_mask"] & outputs["object_mask"]).view(2, -1)
    mixed = batch.model_input["mixed"] & shaded
    assert mixed.any() and (shaded & ~mixed).any()
    colors = outputs["rgb_values"].view(2, -1, 3)
    parameters = trainer.state.model.implicit_network.parameters()
    *_, offset = (parameter for parameter in parameters if parameter.shape == (1 + 6,))  # of the last layer
    for rays, moves in ((mixed, False), (shaded & ~mixed, True)):
        (gradient,) = torch.autograd.grad(colors[rays].sum(), offset, retain_graph=True)
        assert bool(gradient[0] != 0) == moves  # of f: a constant changes neither normals nor features


def test_error_maps_against_a_slow_loop_in_any_order() -> None:
    maps = ErrorMaps(2, (9, 10), cell=4, rate=0.25)
    assert maps.maps.shape == (2, 3, 3) and bool((maps.maps == 1).all())
    dice = np.random.default_rng(0)
    pixels = torch.from_numpy(dice.integers(0, 90, (2, 40)))
    residuals = torch.from_numpy(dice.random(80, dtype=np.float32))
    cells = torch.stack([maps.cells_of(view, pixels[view], 10, 1) for view in range(2)])
    expected = np.ones((2, 3, 3))
    for view in range(2):
        seen: dict[tuple[int, int], list[float]] = {}
        for pixel, residual in zip(pixels[view].tolist(), residuals.view(2, 40)[view].tolist(), strict=True):
            seen.setdefault((pixel // 10 // 4, pixel % 10 // 4), []).append(residual)
        for cell, values in seen.items():
            expected[view][cell] += 0.25 * (np.mean(values) - 1)
    shuffled = ErrorMaps(2, (9, 10), cell=4, rate=0.25)
    order = torch.from_numpy(dice.permutation(80))
    maps.update(cells, residuals)
    shuffled.update(cells.reshape(-1)[order], residuals[order])
    assert maps.maps.numpy() == pytest.approx(expected, abs=0.5 / GRAIN)  # residuals are rounded
    assert torch.equal(maps.maps, shuffled.maps)


def test_residuals_of_all_kinds_of_rays() -> None:
    outputs = {
        "network_object_mask": torch.tensor([True, True, False, False]),
        "object_mask": torch.tensor([True, False, True, False]),
        "rgb_values": torch.tensor([[0.5, -0.5, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]),
    }
    found = residuals_of(outputs, torch.zeros(1, 4, 3), mask_error=0.25)
    assert found.tolist() == pytest.approx([1 / 6, 0.25, 0.25, 0.0])


def test_the_object_gets_its_share_of_the_rays() -> None:
    sampler = sampler_of(dataclasses.replace(CONFIG, silhouette=0.0, inside=0.9, error=0.0))
    for number in range(20):
        drawn = sampler.draw(0, 1, 200, seeded(number)).pixels
        assert int(sampler.dataset.masks[0][drawn].sum()) >= 179  # 180, and what the rest adds; cells round
    sampler.dataset.masks[:] = False


def test_a_view_that_does_not_see_the_object_is_drawn_from_all_over() -> None:
    sampler = sampler_of(dataclasses.replace(CONFIG, inside=0.4))
    sampler.dataset.masks[:] = False
    probability = sampler.probability(1, 1, torch.arange(HEIGHT * WIDTH))
    assert float(probability.sum()) == pytest.approx(1, rel=1e-12) and float(probability.min()) > 0
    drawn = torch.cat([sampler.draw(1, 1, 400, seeded(n)).pixels for n in range(20)])
    assert len(drawn.unique()) > 0.9 * HEIGHT * WIDTH


def test_batches_use_the_sampler_and_update_its_error_maps() -> None:
    values = config().__dict__ | {"num_pixels": 30, "sampler": dataclasses.replace(CONFIG, reweight=True)}
    rays = RayBatches(Disc(), 2, TrainConfig(**values))
    (batch,) = rays.batches(0, 0, 0)
    assert batch.cells is not None and batch.cells.shape == (2, 30)
    assert batch.ground_truth["weights"].shape == (2, 30)
    wrong = torch.zeros(60, dtype=torch.bool)
    before = rays.error_maps.maps.clone()  # type: ignore[union-attr]
    outputs = {"network_object_mask": wrong, "object_mask": wrong, "rgb_values": torch.zeros(60, 3)}
    rays.update_errors(batch, outputs)
    after = rays.error_maps.maps  # type: ignore[union-attr]
    fallen = (after < before).reshape(-1).nonzero().squeeze(1)
    assert fallen.tolist() == batch.cells.unique().tolist()
    again = next(iter(rays.batches(0, 0, 0)))
    assert not torch.equal(again.cells, batch.cells)  # of the same seed and step, but of other maps


BLOCKS = [
    ({"type": "importence"}, r"train\.sampler\.type: got 'importence'.*did you mean importance\?"),
    ({"type": "importance", "silhouete": 0.1}, r"silhouete: unknown key \(did you mean silhouette\?\)"),
    ({"silhouette": 0.1}, r"train\.sampler\.silhouette: belongs to type = importance, got type = uniform"),
    ({"type": "importance", "silhouette": 1.5}, r"sampler\.silhouette = 1\.5: expected a share of 0 to 1"),
    (
        {"type": "importance", "silhouette": 0.5, "error": 0.5},
        r"silhouette \+ inside \+ error \+ far = 1: expected less than 1",
    ),
    ({"type": "importance", "inside": 0.6}, r"silhouette \+ inside \+ error \+ far = 1\.1: expected less"),
    ({"inside": 0.6}, r"inside: belongs to type = importance"),
    ({"type": "importance", "error_cell": 0}, r"error_cell = 0, .*: expected 1 or more pixels"),
    ({"type": "importance", "mixed_pixels": -1}, r"mixed_pixels = -1.*: expected a width of 0 or more"),
    (
        {"type": "importance", "far_pixels": 2},
        r"far_pixels = 2\.0: expected at least silhouette_pixels, 3\.0",
    ),
    ({"type": "importance", "far_pixels": 20, "far": 0}, r"far = 0: expected a share above 0"),
]


@pytest.mark.parametrize(("block", "message"), BLOCKS, ids=[", ".join(block) for block, _ in BLOCKS])
def test_a_block_that_is_wrong_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_block(SamplerConfig, block, "train.sampler")


def test_importance_and_one_draw_an_epoch_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"pixel_sampling = per_epoch: .*; expected per_image"):
        config(pixel_sampling="per_epoch", sampler=CONFIG)


def test_a_data_set_that_draws_by_itself_is_refused() -> None:
    class Published:
        def __len__(self) -> int:
            return 2

    values = config().__dict__ | {"sampler": CONFIG}
    with pytest.raises(
        InputError, match=r"train\.sampler\.type = importance: Published has no sample_item; expected a data"
    ):
        check_schedule(TrainConfig(**values), Published(), torch.nn.Module(), None)


def test_a_loss_that_takes_no_weights_is_refused(scene_root: Any, tmp_path: Any) -> None:
    class OwnLoss:
        alpha = 50.0

    conf = tiny.conf_text("sampler { type = importance, reweight = true }")
    with pytest.raises(InputError, match=r"reweight = true: OwnLoss takes no weights; expected a loss with"):
        tiny.make_trainer(scene_root, tmp_path, conf=conf, loss=lambda _: OwnLoss())
