"""Random numbers as a function of seed, epoch and step.

Nothing about them need be saved: a run that is continued draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

import random
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

EXTRA_DRAWS = 2  # candidates a wanted pixel, so that enough different ones remain


class Stream(IntEnum):
    """What numbers are drawn for; streams never share numbers."""

    WEIGHTS = 0
    ORDER = 1
    EPOCH_PIXELS = 2
    STEP = 3
    PLOT = 4
    PIXELS = 5


def derive_seed(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> int:
    """Returns a 63-bit seed for one use."""
    state = np.random.SeedSequence([seed, int(stream), epoch, step]).generate_state(1, np.uint64)[0]
    return int(state) >> 1


def generator_for(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> torch.Generator:
    """Returns a generator on the host for one use."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, epoch, step))


def seed_everything(seed: int, stream: Stream, epoch: int = 0, step: int = 0) -> None:
    """Seeds the global generators of torch (all devices), numpy and Python, for code that takes none."""
    value = derive_seed(seed, stream, epoch, step)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


def epoch_order(seed: int, epoch: int, num_images: int) -> Tensor:
    """Returns the (num_images,) order of images in an epoch."""
    return torch.randperm(num_images, generator=generator_for(seed, Stream.ORDER, epoch))


def epoch_order_of_rounds(seed: int, epoch: int, num_images: int, rounds: int, together: int) -> Tensor:
    """Returns the order of images in an epoch that shows each of them several times.

    Args:
        seed: Root of all random numbers.
        epoch: The epoch.
        num_images: N.
        rounds: How many times.
        together: That many images which follow one another, from the first on, are different ones; at most N.

    Returns:
        (N rounds,): permutation after permutation; `epoch_order` for one round.
    """
    generator = generator_for(seed, Stream.ORDER, epoch)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(rounds):
        new = torch.randperm(num_images, generator=generator)
        begun = order[len(order) // together * together :]
        again = torch.isin(new, begun)  # they wait until the group that is begun is full
        need = (together - len(begun)) % together
        other = new[~again]
        rest = new[torch.isin(new, other[:need], invert=True)]
        order = torch.cat((order, other[:need], rest))
    return order


def draw_pixels(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws pixel numbers without replacement, without listing all pixels.

    Args:
        total: Pixels of the image.
        count: How many; at most all are returned.
        generator: Source of the draw.

    Returns:
        (min(count, total),) int64, in random order.
    """
    if EXTRA_DRAWS * count < total // 2:
        candidates = torch.randint(total, (EXTRA_DRAWS * count,), generator=generator)
        _, first = np.unique(candidates.numpy(), return_index=True)
        if len(first) >= count:
            return candidates[torch.from_numpy(np.sort(first)[:count])]
    return torch.randperm(total, generator=generator)[:count]
