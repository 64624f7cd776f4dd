"""Which pixels of which images make a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.schedule.test_by_epoch import config
from torch.overrides import TorchFunctionMode

from idr.datasets.scene_dataset import SceneDataset
from idr.errors import InputError
from idr.training.rays.batches import Batch, RayBatches
from idr.training.schedule.checks import check_schedule

TOTAL = 50


def item(index: int, pixels: torch.Tensor) -> Any:
    sample = {"uv": torch.stack((pixels, pixels), dim=1).float(), "object_mask": pixels >= 0}
    return index, sample, {"rgb": pixels[:, None].expand(-1, 3).float()}


class RecordingDataset:
    """Records the pixels that were read."""

    collate_fn = staticmethod(SceneDataset.collate_fn)
    total_pixels = TOTAL

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.requested: list[tuple[int, tuple[int, ...]]] = []

    def __len__(self) -> int:
        return self.num_images

    def sample_item(self, index: int, pixels: torch.Tensor) -> Any:
        self.requested.append((index, tuple(pixels.tolist())))
        return item(index, pixels)


class PublishedDataset:
    """The published seam alone: the data set draws its pixels itself, from the global generator."""

    collate_fn = staticmethod(SceneDataset.collate_fn)
    total_pixels = TOTAL

    def __init__(self, num_images: int) -> None:
        self.num_images, self.draws = num_images, 0
        self.requested: list[tuple[int, tuple[int, ...]]] = []

    def __len__(self) -> int:
        return self.num_images

    def change_sampling_idx(self, size: int) -> None:
        self.draws += 1
        self.pixels = torch.randperm(self.total_pixels)[:size]

    def __getitem__(self, index: int) -> Any:
        self.requested.append((index, tuple(self.pixels.tolist())))
        return item(index, self.pixels)


def batches_of(
    dataset: Any, batch_size: int = 2, num_pixels: int = 6, sampling: str = "per_image", images: int = 1
) -> RayBatches:
    values = config(pixel_sampling=sampling).__dict__
    values |= {"num_pixels": num_pixels, "images_per_step": images}
    return RayBatches(dataset, batch_size, type(config())(**values))


def requested(dataset_class: type, epochs: Sequence[int], first_step: int = 0, **options: Any) -> list[Any]:
    dataset = dataset_class(5)
    rays = batches_of(dataset, **options)
    for epoch in epochs:
        list(rays.batches(3, epoch, first_step))
    return dataset.requested


@settings(max_examples=30, deadline=None)
@given(num_images=st.integers(1, 9), batch_size=st.integers(1, 10), num_pixels=st.integers(1, 60))
def test_an_epoch_uses_each_image_once_and_keeps_the_short_last_batch(
    num_images: int, batch_size: int, num_pixels: int
) -> None:
    dataset = RecordingDataset(num_images)
    rays = batches_of(dataset, batch_size, num_pixels)
    batches = list(rays.batches(0, 4, 0))
    sizes = [len(batch.indices) for batch in batches]
    assert len(sizes) == rays.steps_per_epoch
    assert all(size == batch_size for size in sizes[:-1]) and 1 <= sizes[-1] <= batch_size
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(num_images))
    for batch in batches:
        assert batch.model_input["uv"].shape == (len(batch.indices), min(num_pixels, TOTAL), 2)
    assert all(len(set(pixels)) == len(pixels) for _, pixels in dataset.requested)


@pytest.mark.parametrize("dataset_class", [RecordingDataset, PublishedDataset])
def test_per_image_draws_anew_for_each_image(dataset_class: type) -> None:
    pixels = [pixels for _, pixels in requested(dataset_class, (0, 1))]
    assert len(set(pixels)) == 10


@pytest.mark.parametrize("dataset_class", [RecordingDataset, PublishedDataset])
def test_per_epoch_draws_once_for_all_images_of_an_epoch(dataset_class: type) -> None:
    pixels = [pixels for _, pixels in requested(dataset_class, (0, 1), sampling="per_epoch")]
    assert len(set(pixels[:5])) == 1 and len(set(pixels[5:])) == 1
    assert pixels[0] != pixels[5]


@pytest.mark.parametrize("sampling", ["per_image", "per_epoch"])
@pytest.mark.parametrize("dataset_class", [RecordingDataset, PublishedDataset])
def test_a_later_first_step_goes_on_with_what_was_left(dataset_class: type, sampling: str) -> None:
    whole = requested(dataset_class, (7,), sampling=sampling)
    assert requested(dataset_class, (7,), first_step=1, sampling=sampling) == whole[2:]
    assert requested(dataset_class, (7,), first_step=3, sampling=sampling) == []


def test_what_a_step_draws_depends_on_no_earlier_step() -> None:
    """Plots, monitors and a user's own code may use the global generators in between."""
    draws = []
    for disturb in (False, True):
        dataset = PublishedDataset(5)
        for _ in batches_of(dataset).batches(1, 1, 0):
            draws.append((dataset.requested[-1], torch.rand(1).item(), np.random.rand()))
            torch.rand(17 * disturb)
    assert draws[:3] == draws[3:]


def test_more_pixels_than_an_image_has_takes_all() -> None:
    (batch, *_) = batches_of(RecordingDataset(1), num_pixels=1000).batches(0, 0, 0)
    assert sorted(batch.model_input["uv"][0, :, 0].tolist()) == list(range(TOTAL))


@settings(max_examples=60, deadline=None)
@given(
    num_images=st.integers(1, 13),
    batch_size=st.integers(1, 4),
    images=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_images_that_share_a_step(num_images: int, batch_size: int, images: int, seed: int) -> None:
    """The number of steps stays; all images are used equally often, none twice in a step."""
    batch_images = batch_size * images
    if batch_images > num_images:  # refused by check_schedule
        return
    rays = batches_of(RecordingDataset(num_images), batch_size, 3 * images, images=images)
    batches = list(rays.batches(seed, 1, 0))
    assert len(batches) == rays.steps_per_epoch == -(-num_images // batch_size)
    for number, batch in enumerate(batches):
        views = batch.indices.tolist()
        assert len(set(views)) == len(views)
        assert len(views) == batch_images or number == len(batches) - 1
        assert batch.model_input["uv"].shape == (len(views), 3, 2)
    seen = torch.bincount(torch.cat([batch.indices for batch in batches]), minlength=num_images)
    assert seen.tolist() == [images] * num_images
    again = list(rays.batches(seed, 1, 1))  # steps do not depend on those before
    assert [b.indices.tolist() for b in again] == [b.indices.tolist() for b in batches[1:]]


def test_groups_of_images_change_from_round_to_round() -> None:
    rays = batches_of(RecordingDataset(12), 1, 4, images=4)
    groups = {frozenset(batch.indices.tolist()) for batch in rays.batches(0, 0, 0)}
    assert len(groups) > 6  # of 12 steps; the same three groups of four would make 3


def test_what_images_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match=r"images_per_step = 4: expected a divisor of train\.num_pixels, 6"):
        batches_of(RecordingDataset(5), images=4)
    with pytest.raises(InputError, match=r"train\.images_per_step = 0: expected 1 or more"):
        batches_of(RecordingDataset(5), images=0)
    conf = type(config())(**config().__dict__ | {"num_pixels": 6, "images_per_step": 3})
    with pytest.raises(InputError, match=r"images_per_step = 3 with --batch_size 2: .* than there are, 5"):
        check_schedule(conf, RecordingDataset(5), torch.nn.Module(), None, 2)
    check_schedule(conf, RecordingDataset(6), torch.nn.Module(), None, 2)


def test_a_batch_moves_whole() -> None:
    (batch, *_) = batches_of(RecordingDataset(2)).batches(0, 0, 0)
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Batch) and moved.indices.is_meta
    assert all(value.is_meta for value in (*moved.model_input.values(), *moved.ground_truth.values()))


class LargestAllocation(TorchFunctionMode):
    """Remembers the largest storage that an operation makes, apart from those that were there before."""

    def __init__(self, recorded: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.recorded = {tensor.untyped_storage().data_ptr() for tensor in recorded}
        self.bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.recorded:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def big_scene(num_images: int, height: int, width: int) -> SceneDataset:
    """A scene of large images without its files; zeros take no memory before they are written."""
    scene = SceneDataset.__new__(SceneDataset)
    scene.train_cameras, scene.img_res, scene.total_pixels = False, (height, width), height * width
    scene.images = torch.from_numpy(np.zeros((num_images, height * width, 3), np.uint8))
    scene.masks = torch.from_numpy(np.zeros((num_images, height * width), bool))
    scene.intrinsics = scene.poses = torch.eye(4).expand(num_images, 4, 4)
    scene.indices, scene.sampling_idx = list(range(num_images)), None
    return scene


@pytest.mark.parametrize("sampling", ["per_image", "per_epoch"])
def test_large_images_are_sampled_without_any_grid_of_their_pixels(sampling: str) -> None:
    """64 images of 1600 x 1200 stay bytes; `benchmarks/memory.py` trains on as many and measures."""
    scene = big_scene(64, 1200, 1600)
    rays = batches_of(scene, batch_size=2, num_pixels=2048, sampling=sampling)
    with LargestAllocation([scene.images, scene.masks, scene.intrinsics]) as largest:
        for batch in rays.batches(0, 0, 28):
            assert batch.ground_truth["rgb"].shape == (2, 2048, 3)
    # The largest tensors that are needed: 2 x 2048 candidates and, batched, 2 x 2048 colors and pixels.
    assert 0 < largest.bytes <= 2 * 2048 * 3 * 8
