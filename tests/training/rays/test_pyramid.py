"""Reduced images, against slow loops over blocks and against cameras that are reduced with them."""

from __future__ import annotations

import dataclasses
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
from idr.geometry.cameras import pixel_rays
from idr.training.config import TrainConfig
from idr.training.rays.batches import RayBatches
from idr.training.rays.config import SamplerConfig
from idr.training.rays.pyramid import sample_reduced
from idr.training.schedule.by_step import Schedule
from idr.training.schedule.checks import check_schedule
from idr.training.schedule.config import PyramidSchedule, ScheduleConfig

FACTORS = [2, 3, 4, 5]


@pytest.fixture(scope="module")
def scene(scene_root: Path) -> SceneDataset:
    return SceneDataset(False, "tiny", [tiny.HEIGHT, tiny.WIDTH], data_root=str(scene_root / "data"))


def all_pixels(factor: int) -> torch.Tensor:
    return torch.arange(tiny.HEIGHT // factor * (tiny.WIDTH // factor))


@pytest.mark.parametrize("factor", FACTORS)
def test_reduced_pixels_against_a_slow_loop(scene: SceneDataset, factor: int) -> None:
    """12 x 16 pixels: by 5 some rows and columns are left over."""
    image = scene.images[2].view(tiny.HEIGHT, tiny.WIDTH, 3).double().numpy() / 127.5 - 1
    mask = scene.masks[2].view(tiny.HEIGHT, tiny.WIDTH).numpy()
    index, sample, truth = sample_reduced(scene, 2, all_pixels(factor), factor)
    number = mixed = 0
    for row in range(0, tiny.HEIGHT - factor + 1, factor):
        for column in range(0, tiny.WIDTH - factor + 1, factor):
            block = np.s_[row : row + factor, column : column + factor]
            inside, colors = mask[block].reshape(-1), image[block].reshape(-1, 3)
            on_object = inside.mean() >= 0.5
            mixed += 0 < inside.mean() < 1
            expected = colors[inside].mean(axis=0) if on_object else colors.mean(axis=0)
            assert sample["uv"][number].tolist() == [column + (factor - 1) / 2, row + (factor - 1) / 2]
            assert bool(sample["object_mask"][number]) == on_object
            assert truth["rgb"][number].numpy() == pytest.approx(expected, abs=1e-6)  # sums in float32
            number += 1
    assert index == 2 and number == len(sample["uv"]) and mixed > 2
    assert torch.equal(sample["intrinsics"], scene.intrinsics[2]) and torch.equal(
        sample["pose"], scene.poses[2]
    )


def test_the_first_block_of_two_by_two_is_centered_at_a_half(scene: SceneDataset) -> None:
    assert sample_reduced(scene, 0, torch.tensor([0]), 2)[1]["uv"].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("factor", FACTORS)
def test_rays_are_those_of_a_camera_reduced_with_the_image(scene: SceneDataset, factor: int) -> None:
    """K of an image of blocks: focal lengths by f, the principal point to (c + 1/2) / f - 1/2."""
    sample = sample_reduced(scene, 1, all_pixels(factor), factor)[1]
    reduced = scene.intrinsics[1].clone()
    reduced[:2] /= factor
    reduced[:2, 2] += 0.5 / factor - 0.5
    width = tiny.WIDTH // factor
    integers = torch.stack((all_pixels(factor) % width, all_pixels(factor) // width), dim=1).float()
    ours, center = pixel_rays(sample["uv"][None], scene.poses[1:2], scene.intrinsics[1:2])
    theirs, same_center = pixel_rays(integers[None], scene.poses[1:2], reduced[None])
    assert torch.equal(center, same_center)
    assert torch.allclose(ours, theirs, atol=1e-6)  # unit vectors in float32


def test_a_blocks_ray_passes_amid_those_of_its_pixels(scene: SceneDataset) -> None:
    """On the plane one focal length away the ray meets the mean of the points that the pixels' rays meet."""
    blocks = sample_reduced(scene, 3, all_pixels(2), 2)[1]["uv"]
    corner = blocks - 0.5
    pixels = torch.stack([corner + torch.tensor(step) for step in ([0, 0], [1, 0], [0, 1], [1, 1])], dim=1)
    forward = scene.poses[3, :3, 2]

    def on_plane(uv: torch.Tensor) -> torch.Tensor:
        directions = pixel_rays(uv.reshape(1, -1, 2), scene.poses[3:4], scene.intrinsics[3:4])[0][0]
        return (directions / (directions @ forward)[:, None]).view(*uv.shape[:-1], 3)

    assert torch.allclose(on_plane(blocks), on_plane(pixels).mean(dim=1), atol=1e-6)


def test_a_factor_of_one_gives_the_pixels_themselves(scene: SceneDataset) -> None:
    pixels = torch.tensor([5, 0, 77])
    one, two = sample_reduced(scene, 1, pixels, 1), scene.sample_item(1, pixels)
    assert all(torch.equal(one[1][name], two[1][name]) for name in two[1])
    assert torch.equal(one[2]["rgb"], two[2]["rgb"])


def test_what_else_a_pixel_has_is_reduced_too() -> None:
    class WithMore:
        img_res = (2, 4)

        def sample_item(self, index: int, pixels: torch.Tensor) -> Any:
            rgb = torch.zeros(len(pixels), 3)
            flags = pixels % 4 > 0  # two of four in the first block, all in the second
            sample = {"object_mask": flags, "uv": rgb[:, :2], "trust": pixels.float(), "name": "first"}
            return index, sample, {"rgb": rgb, "glossy": pixels == 7}

    _, sample, truth = sample_reduced(WithMore(), 0, torch.tensor([0, 1]), 2)
    assert sample["trust"].tolist() == [2.5, 4.5] and sample["name"] == "first"
    assert sample["object_mask"].tolist() == [True, True] and truth["glossy"].tolist() == [False, False]


@pytest.mark.parametrize("kind", ["uniform", "importance"])
def test_batches_are_reduced_as_the_schedule_says(scene: SceneDataset, kind: Any) -> None:
    """Five steps an epoch, two epochs: by 4 for three steps, by 2 for two, then as they are."""
    pyramid = PyramidSchedule((4, 2), (0.3, 0.5))
    values = config().__dict__ | {"num_pixels": 30, "schedule": ScheduleConfig(pyramid=pyramid)}
    values["sampler"] = SamplerConfig(type=kind)
    conf = TrainConfig(**values)
    rays, schedule = RayBatches(scene, 1, conf), Schedule(conf, 2, 5, 50.0, None)
    batches = [
        batch
        for epoch in (0, 1)
        for batch in rays.batches(0, epoch, 0, lambda step, e=epoch: schedule.at(e, step).image_reduction)  # type: ignore[misc]
    ]
    remainders = [sorted({float(uv) % 1 for uv in batch.model_input["uv"].reshape(-1)}) for batch in batches]
    assert remainders == [[0.5]] * 5 + [[0.0]] * 5
    counts = [batch.model_input["uv"].shape[1] for batch in batches]
    assert counts == [12] * 3 + [30] * 7  # of 3 x 4 pixels all are taken
    assert [b.model_input["uv"][0].min().item() for b in batches[:3]] == [1.5] * 3 or kind == "importance"


BLOCKS = [
    (
        {"factors": [4, 2], "until": [0.1]},
        r"until = \[0\.1\]: expected one time for each of factors = \[4, 2\]",
    ),
    (
        {"factors": [2, 4], "until": [0.1, 0.2]},
        r"factors = \[2, 4\]: expected whole numbers from 16 down to 2",
    ),
    ({"factors": [1], "until": [0.1]}, r"factors = \[1\]: expected whole numbers"),
    ({"factors": [4, 2], "until": [0.5, 0.2]}, r"until = \[0\.5, 0\.2\]: expected times in order"),
    ({"factors": [4], "until": [1.5]}, r"until = 1\.5: expected a fraction of the schedule"),
    ({"factor": [4], "until": [0.5]}, r"factor: unknown key \(did you mean factors\?\)"),
]


@pytest.mark.parametrize(("block", "message"), BLOCKS, ids=[str(block) for block, _ in BLOCKS])
def test_a_block_that_is_wrong_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"train\.schedule\.pyramid\." + message):
        read_block(PyramidSchedule, block, "train.schedule.pyramid")


def test_what_cannot_be_reduced_is_refused() -> None:
    schedule = ScheduleConfig(pyramid=PyramidSchedule((3,), (0.5,)))
    with pytest.raises(InputError, match=r"per_epoch: .* nor train\.schedule\.pyramid can"):
        config(pixel_sampling="per_epoch", schedule=schedule)
    with pytest.raises(InputError, match=r"error_cell = 8: expected a multiple of each of .*, got 3"):
        config(sampler=SamplerConfig(type="importance"), schedule=schedule)

    class Small:
        img_res, sample_item = (6, 12), None

    large = ScheduleConfig(pyramid=PyramidSchedule((8, 2), (0.1, 0.5)))
    with pytest.raises(InputError, match=r"factors = \[8, 2\]: images of 6 x 12 pixels hold no block of"):
        check_schedule(dataclasses.replace(config(), schedule=large), Small(), torch.nn.Module(), None)

    class Published:
        def __len__(self) -> int:
            return 2

    with pytest.raises(InputError, match=r"train\.schedule\.pyramid: Published has no sample_item"):
        check_schedule(dataclasses.replace(config(), schedule=schedule), Published(), torch.nn.Module(), None)
