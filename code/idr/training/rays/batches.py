"""Batches of rays from a data set.

B images of a batch, P pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from idr.training.config import TrainConfig
from idr.training.rays.error_maps import ErrorMaps, residuals_of
from idr.training.rays.importance import ImportanceSampler
from idr.training.rays.pyramid import reduced_size, sample_reduced
from idr.training.rays.randomness import Stream, draw_pixels, epoch_order, generator_for, seed_everything


@dataclass(frozen=True)
class Batch:
    """The rays of one step.

    Attributes:
        indices: (B,) positions of the images in the data set.
        model_input: ``uv`` (B, P, 2), ``intrinsics``, ``object_mask`` (B, P), unless trained ``pose``, and
            with ``train.sampler.mixed_pixels`` also ``mixed`` (B, P), see `IDRNetwork.forward`.
        ground_truth: ``rgb`` (B, P, 3) in [-1, 1]; with ``train.sampler.reweight`` also ``weights`` (B, P).
        cells: (B, P) cells of the rays in the sampler's error maps, on the host; None if it has none.
    """

    indices: Tensor
    model_input: dict[str, Tensor]
    ground_truth: dict[str, Tensor]
    cells: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        indices = self.indices.to(device, non_blocking=True)
        model_input, truth = (
            {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
            for tensors in (self.model_input, self.ground_truth)
        )
        return replace(self, indices=indices, model_input=model_input, ground_truth=truth)


class RayBatches:
    """Batches as a function of seed, epoch and step, and of the importance sampler's error maps.

    From a data set with ``sample_item(index, pixels)`` only the drawn pixels are read; any other data set is
    used through ``change_sampling_idx`` and indexing.

    Args:
        dataset: The images; the seam of `SceneDataset`.
        batch_size: B, or B / ``config.images_per_step``.
        config: Number of pixels, and how they are drawn.

    Attributes:
        sampler: Draws pixels by importance, or None.
    """

    def __init__(self, dataset: Any, batch_size: int, config: TrainConfig) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.rounds = config.images_per_step
        self.num_pixels = config.num_pixels // self.rounds
        self.per_epoch = config.pixel_sampling == "per_epoch"
        self.sampler = None
        if config.sampler.type == "importance":
            self.sampler = ImportanceSampler(config.sampler, dataset)

    @property
    def error_maps(self) -> ErrorMaps | None:
        """The sampler's state, or None without a sampler."""
        return None if self.sampler is None else self.sampler.maps

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, a short last one included."""
        return -(-len(self.dataset) // self.batch_size)

    def batches(
        self, seed: int, epoch: int, first_step: int, reduction: Callable[[int], int] = lambda step: 1
    ) -> Iterator[Batch]:
        """Yields the batches of an epoch from a step on, on the host.

        `reduction` returns the factor by which the images of a step are reduced.
        """
        size = self.batch_size * self.rounds
        order = epoch_order(seed, epoch, len(self.dataset), self.rounds, size).split(size)
        draw = self._epoch_draw(seed, epoch) if self.per_epoch else None
        for step in range(first_step, len(order)):
            seed_everything(seed, Stream.STEP, epoch, step)  # for the model and data sets without sample_item
            generator = generator_for(seed, Stream.PIXELS, epoch, step)
            factor = reduction(step)
            if self.sampler is not None:
                yield self._by_importance(self.sampler, order[step].tolist(), factor, generator)
            else:
                items = [self._item(int(i), draw, generator, factor) for i in order[step]]
                yield Batch(*self.dataset.collate_fn(items))

    def update_errors(self, batch: Batch, outputs: Mapping[str, Any]) -> None:
        """Updates the sampler's error maps, if there are any, by the model's outputs for a batch."""
        if self.sampler is not None and batch.cells is not None:
            residuals = residuals_of(outputs, batch.ground_truth["rgb"], self.sampler.config.mask_error)
            self.sampler.maps.update(batch.cells, residuals.cpu())  # read once by the host

    def _epoch_draw(self, seed: int, epoch: int) -> Tensor | None:
        """Draws the pixels of a whole epoch; a data set without ``sample_item`` keeps them itself."""
        if hasattr(self.dataset, "sample_item"):
            generator = generator_for(seed, Stream.EPOCH_PIXELS, epoch)
            return draw_pixels(self.dataset.total_pixels, self.num_pixels, generator)
        seed_everything(seed, Stream.EPOCH_PIXELS, epoch)
        self.dataset.change_sampling_idx(self.num_pixels)
        return None

    def _item(self, index: int, epoch_draw: Tensor | None, generator: torch.Generator, factor: int) -> Any:
        if hasattr(self.dataset, "sample_item"):
            pixels = epoch_draw
            if pixels is None:
                pixels = draw_pixels(self._total(factor), self.num_pixels, generator)
            return sample_reduced(self.dataset, index, pixels, factor)
        if not self.per_epoch:
            self.dataset.change_sampling_idx(self.num_pixels)
        return self.dataset[index]

    def _by_importance(
        self, sampler: ImportanceSampler, views: list[int], factor: int, generator: torch.Generator
    ) -> Batch:
        """Returns a batch whose pixels the sampler draws, at most as many as an image has."""
        count = min(self.num_pixels, self._total(factor))
        draws = [sampler.draw(view, factor, count, generator) for view in views]
        pairs = zip(views, draws, strict=True)
        items = [sample_reduced(self.dataset, view, draw.pixels, factor) for view, draw in pairs]
        batch = Batch(*self.dataset.collate_fn(items))
        cells = [draw.cells for draw in draws if draw.cells is not None]
        if cells:
            batch = replace(batch, cells=torch.stack(cells))
        mixed = [draw.mixed for draw in draws if draw.mixed is not None]
        if mixed:
            batch.model_input["mixed"] = torch.stack(mixed)
        weights = [draw.weights for draw in draws if draw.weights is not None]
        if weights:
            batch.ground_truth["weights"] = torch.stack(weights)
        return batch

    def _total(self, factor: int) -> int:
        if factor == 1:
            return int(self.dataset.total_pixels)
        return math.prod(reduced_size(self.dataset.img_res, factor))
