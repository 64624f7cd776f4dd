"""Importance sampling of pixels, the block ``train.sampler``.

Rays are drawn from a mixture of five distributions over an image's pixels: all but the far ones, the band
along the silhouette, the object, the error map, and optionally pixels far outside the mask. Each has a share
of the rays. For the effect on the loss see `SamplerConfig.reweight`.

P pixels of a draw, N pixels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.training.rays.config import SamplerConfig
from idr.training.rays.error_maps import ErrorMaps
from idr.training.rays.pixel_classes import BAND, FAR, NEAR, OBJECT, PixelClasses, classify
from idr.training.rays.pyramid import reduced_size, sample_reduced

UNIFORM = (NEAR, BAND, OBJECT, range(FAR, FAR + 1))  # kinds of pixels of the first four distributions
BY_ERROR = len(UNIFORM)  # the last distribution
PART = 2**17  # pixels of a data set read at once
BELOW_ONE = 1 - 2.0**-40  # times a number of pixels it does not round up to that number


@dataclass(frozen=True)
class Draw:
    """Pixels of one image.

    Attributes:
        pixels: (P,) int64 numbers, row by row, of the image at its training resolution.
        cells: (P,) int64 indices of cells of the error maps, or None if no ray is drawn by error.
        weights: (P,) float32 weights of the rays in the loss, or None.
        mixed: (P,) bool, pixels whose colors mix object and background, or None.
    """

    pixels: Tensor
    cells: Tensor | None
    weights: Tensor | None
    mixed: Tensor | None


class ImportanceSampler:
    """Draws pixels by importance.

    A draw is a function of its generator and of `maps`. It is stratified: the unit interval is divided into P
    intervals with one number drawn in each, so a pixel of probability p is drawn P p times on average and the
    shares are kept closely. A pixel of several distributions may be drawn twice.

    Args:
        config: The block ``train.sampler``.
        dataset: Has ``sample_item``, ``img_res`` and a length.

    Attributes:
        maps: The error maps.
    """

    def __init__(self, config: SamplerConfig, dataset: Any) -> None:
        self.config, self.dataset = config, dataset
        self.size = (int(dataset.img_res[0]), int(dataset.img_res[1]))
        self.maps = ErrorMaps(len(dataset), self.size, config.error_cell, config.error_rate)
        self._classes: dict[int, PixelClasses] = {}
        self._classes_factor = 1

    def draw(self, view: int, factor: int, count: int, generator: torch.Generator) -> Draw:
        """Draws P = `count` pixels of a view reduced by a factor; the generator is on the host."""
        classes = self.classes(view, factor)
        place = (torch.arange(count) + torch.rand(count, dtype=torch.float64, generator=generator)) / count
        shares = self.shares(classes)
        edges = shares.cumsum(0)
        which = torch.searchsorted(edges[:-1].contiguous(), place, right=True)  # (P,) of the five
        within = ((place - (edges - shares)[which]) / shares[which].clamp(min=1e-300)).clamp(0, BELOW_ONE)

        starts, counts = torch.tensor([*map(classes.place, UNIFORM), (0, 0)]).unbind(1)
        pixels = classes.order[starts[which] + (within * counts[which]).long()].long()
        cells = None
        if self.config.error > 0:
            by_error = which == BY_ERROR
            pixels[by_error] = self._by_error(view, factor, within[by_error])
            cells = self.maps.cells_of(view, pixels, classes.width, factor)
        mixed = None if classes.mixed is None else classes.mixed[pixels]
        if not self.config.reweight:
            return Draw(pixels, cells, None, mixed)
        probability = self.probability(view, factor, pixels)
        return Draw(pixels, cells, (1 / (len(classes.order) * probability)).float(), mixed)

    def probability(self, view: int, factor: int, pixels: Tensor) -> Tensor:
        """Returns the probabilities, (P,) float64, of pixels of a view; they sum to 1 over all its pixels."""
        classes = self.classes(view, factor)
        *uniform, error = self.shares(classes)
        by_kind = torch.zeros(FAR + 1, dtype=torch.float64)
        for kinds, share in zip(UNIFORM, uniform, strict=True):
            by_kind[kinds.start : kinds.stop] += share / max(classes.place(kinds)[1], 1)
        cells = self.maps.cells_of(0, pixels, classes.width, factor)
        in_cell = error * self.maps.maps[view].reshape(-1).double()[cells]
        return by_kind[classes.kinds[pixels].long()] + in_cell / self._masses(view, factor).sum()

    def shares(self, classes: PixelClasses) -> Tensor:
        """Returns the shares, (5,) float64, of near, band, object, far, error; 0 for kinds without pixels."""
        configured = (self.config.silhouette, self.config.inside, self.config.far)
        pairs = zip(UNIFORM[1:], configured, strict=True)
        special = [share if classes.place(kinds)[1] else 0.0 for kinds, share in pairs]
        shares = [1 - sum(special) - self.config.error, *special, self.config.error]
        if not classes.place(NEAR)[1]:  # the object is not in view: all pixels are far
            shares = [0.0, 0.0, 0.0, 1 - self.config.error, self.config.error]
        return torch.tensor(shares, dtype=torch.float64)

    def classes(self, view: int, factor: int) -> PixelClasses:
        """Returns the classes of a view's pixels, cached (5 or 6 bytes a pixel) until the factor changes."""
        if factor != self._classes_factor:
            self._classes, self._classes_factor = {}, factor
        if view not in self._classes:
            size = reduced_size(self.size, factor)
            # In parts: a data set returns more than masks, as floats.
            parts = torch.arange(size[0] * size[1]).split(PART // factor**2)
            samples = (sample_reduced(self.dataset, view, part, factor)[1] for part in parts)
            mask = torch.cat([sample["object_mask"].bool() for sample in samples])
            self._classes[view] = classify(mask.view(size), self.config, factor)
        return self._classes[view]

    def _lengths(self, factor: int) -> tuple[Tensor, Tensor]:
        """Returns the heights, in pixels, of the rows of cells, and the widths of their columns."""
        side = self.config.error_cell // factor
        sides = zip(reduced_size(self.size, factor), self.maps.maps.shape[1:], strict=True)
        heights, widths = ((size - side * torch.arange(cells)).clamp(0, side) for size, cells in sides)
        return heights, widths

    def _masses(self, view: int, factor: int) -> Tensor:
        """Returns the residual times the number of pixels of a view's cells, (rows columns,) float64."""
        heights, widths = self._lengths(factor)
        return (self.maps.maps[view].double() * heights[:, None] * widths).reshape(-1)

    def _by_error(self, view: int, factor: int, within: Tensor) -> Tensor:
        """Maps uniform numbers on [0, 1) to pixels with probability proportional to their cell's residual."""
        masses = self._masses(view, factor)
        ends = masses.cumsum(0)
        goal = within * ends[-1]
        cell = torch.searchsorted(ends, goal, right=True).clamp(max=len(ends) - 1)
        inner = ((goal - (ends - masses)[cell]) / masses[cell]).clamp(0, BELOW_ONE)
        heights, widths = self._lengths(factor)
        row, column = cell // len(widths), cell % len(widths)
        number = (inner * (heights[row] * widths[column])).long()
        side = self.config.error_cell // factor
        rows, columns = row * side + number // widths[column], column * side + number % widths[column]
        return rows * reduced_size(self.size, factor)[1] + columns
