"""Batches of rays from a data set.

B images of a batch, P pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.training.config import TrainConfig
from idr.training.randomness import Stream, draw_pixels, epoch_order, generator_for, seed_everything


@dataclass(frozen=True)
class Batch:
    """One step's rays.

    Attributes:
        indices: (B,) positions of the images in the data set.
        model_input: ``uv`` (B, P, 2), ``intrinsics``, ``object_mask`` (B, P) and, unless trained, ``pose``.
        ground_truth: ``rgb`` (B, P, 3) in [-1, 1].
    """

    indices: Tensor
    model_input: dict[str, Tensor]
    ground_truth: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        move = lambda tensors: {key: value.to(device, non_blocking=True) for key, value in tensors.items()}  # noqa: E731
        return Batch(
            self.indices.to(device, non_blocking=True), move(self.model_input), move(self.ground_truth)
        )


class Feed:
    """Draws batches as a function of seed, epoch and step.

    A data set that has ``sample_item(index, pixels)`` is asked for just those pixels; any other is used
    through ``change_sampling_idx`` and indexing.

    Args:
        dataset: The images; the seam of `SceneDataset`.
        batch_size: B.
        config: Gives the number of pixels and how they are drawn.
    """

    def __init__(self, dataset: Any, batch_size: int, config: TrainConfig) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_pixels = config.num_pixels
        self.per_epoch = config.pixel_sampling == "per_epoch"

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass; a short last one counts."""
        return -(-len(self.dataset) // self.batch_size)

    def batches(self, seed: int, epoch: int, first_step: int) -> Iterator[Batch]:
        """Yields the batches of an epoch.

        Args:
            seed: Root of all random numbers.
            epoch: The epoch.
            first_step: Steps to leave out, done before.

        Yields:
            Batches on the host.
        """
        order = epoch_order(seed, epoch, len(self.dataset)).split(self.batch_size)
        draw = self._epoch_draw(seed, epoch) if self.per_epoch else None
        for step in range(first_step, len(order)):
            seed_everything(seed, Stream.STEP, epoch, step)  # for what the model draws, and foreign data sets
            generator = generator_for(seed, Stream.PIXELS, epoch, step)
            yield Batch(*self.dataset.collate_fn([self._item(int(i), draw, generator) for i in order[step]]))

    def _epoch_draw(self, seed: int, epoch: int) -> Tensor | None:
        """Draws the pixels of a whole epoch; a foreign data set keeps them itself."""
        if hasattr(self.dataset, "sample_item"):
            generator = generator_for(seed, Stream.EPOCH_PIXELS, epoch)
            return draw_pixels(self.dataset.total_pixels, self.num_pixels, generator)
        seed_everything(seed, Stream.EPOCH_PIXELS, epoch)
        self.dataset.change_sampling_idx(self.num_pixels)
        return None

    def _item(self, index: int, epoch_draw: Tensor | None, generator: torch.Generator) -> Any:
        """Returns one image's item with its pixels drawn."""
        if hasattr(self.dataset, "sample_item"):
            pixels = epoch_draw
            if pixels is None:
                pixels = draw_pixels(self.dataset.total_pixels, self.num_pixels, generator)
            return self.dataset.sample_item(index, pixels)
        if not self.per_epoch:
            self.dataset.change_sampling_idx(self.num_pixels)
        return self.dataset[index]
