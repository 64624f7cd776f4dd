"""Random numbers as a function of seed, epoch and step.

No generator state has to be saved: a continued run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import functools
import random
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

EXTRA_DRAWS = 2  # candidates for each pixel, so that enough distinct ones remain


class Stream(IntEnum):
    """Uses of random numbers; each has a stream of its own."""

    WEIGHTS = 0
    ORDER = 1
    EPOCH_PIXELS = 2
    STEP = 3
    PLOT = 4
    PIXELS = 5
    TERMS = 6


def derive_seed(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> int:
    """Returns a 63-bit seed for one use."""
    state = np.random.SeedSequence([seed, int(stream), epoch, step]).generate_state(1, np.uint64)[0]
    return int(state) >> 1


def generator_for(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> torch.Generator:
    """Returns a generator on the host for one use."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, epoch, step))


def seed_everything(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> None:
    """Seeds the global generators of torch (all devices), numpy and Python."""
    value = derive_seed(seed, stream, epoch, step)
    if _has_accelerator():
        torch.manual_seed(value)
    else:  # torch would note the call stack for each kind of device, 2 ms in every step
        torch.default_generator.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def epoch_order(seed: int, epoch: int, num_images: int, rounds: int = 1, batch: int = 1) -> Tensor:
    """Returns the order of N = `num_images` in an epoch, (N rounds,): permutation after permutation.

    With several rounds a batch has at most N images; those of each batch are distinct.
    """
    generator = generator_for(seed, Stream.ORDER, epoch)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(rounds):
        new = torch.randperm(num_images, generator=generator)
        begun = order[len(order) // batch * batch :]
        again = torch.isin(new, begun)  # these go into the next batch
        need = (batch - len(begun)) % batch
        other = new[~again]
        rest = new[torch.isin(new, other[:need], invert=True)]
        order = torch.cat((order, other[:need], rest))
    return order


def draw_pixels(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws pixel numbers without replacement, without listing all pixels.

    Args:
        total: Number of pixels of the image.
        count: Number of pixels to draw; more than `total` gives all.
        generator: Random generator.

    Returns:
        (min(count, total),) int64, in random order.
    """
    if EXTRA_DRAWS * count < total // 2:
        candidates = torch.randint(total, (EXTRA_DRAWS * count,), generator=generator)
        _, first = np.unique(candidates.numpy(), return_index=True)
        if len(first) >= count:
            return candidates[torch.from_numpy(np.sort(first)[:count])]
    return torch.randperm(total, generator=generator)[:count]
