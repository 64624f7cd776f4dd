"""Drawing pixels by importance, as the block ``train.sampler`` says.

Five distributions over an image's pixels are mixed: all that are near, those in a band along the silhouette,
those on the object, those where the error map is high, and, if wanted, those far outside the mask. Each has a
share of the rays.
What the loss then means is told by `SamplerConfig.reweight`.

P pixels of a draw, N pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.training.rays.config import SamplerConfig
from idr.training.rays.error_maps import ErrorMaps, residuals_of
from idr.training.rays.pixel_classes import BAND, FAR, NEAR, OBJECT, PixelClasses, classify
from idr.training.rays.pyramid import reduced_size, sample_reduced

UNIFORM = (NEAR, BAND, OBJECT, range(FAR, FAR + 1))  # kinds of pixels of the first distributions
BY_ERROR = len(UNIFORM)  # the last distribution
BELOW_ONE = 1 - 2.0**-40  # so that no product with a number of pixels rounds up to it


@dataclass(frozen=True)
class Draw:
    """Pixels of one image.

    Attributes:
        pixels: (P,) int64 numbers, row by row, in the image as it is trained on.
        cells: (P,) int64 places in the error maps, or None where no ray is drawn by them.
        weights: (P,) float32 factors of the rays in the loss, or None.
    """

    pixels: Tensor
    cells: Tensor | None
    weights: Tensor | None


class ImportanceSampler:
    """Draws pixels by importance, and learns from residuals if a share of them is drawn by these.

    A draw is a function of its generator and of `maps`. The unit interval is cut into as many pieces as rays
    are wanted, and a number is drawn in each: a pixel of probability p is drawn P p times on average, and
    shares come out even. A pixel may come twice where it belongs to several distributions.

    Args:
        config: The block's values.
        dataset: Has ``sample_item``, ``img_res`` and a length.

    Attributes:
        maps: The error maps.
    """

    def __init__(self, config: SamplerConfig, dataset: Any) -> None:
        self.config, self.dataset = config, dataset
        self.size = (int(dataset.img_res[0]), int(dataset.img_res[1]))
        self.maps = ErrorMaps(len(dataset), self.size, config.error_cell, config.error_rate)
        self._known: dict[int, PixelClasses] = {}
        self._known_factor = 1

    def draw(self, view: int, factor: int, count: int, generator: torch.Generator) -> Draw:
        """Draws pixels of a view.

        Args:
            view: Position of the image.
            factor: By which it is reduced.
            count: P.
            generator: Source of the draw, on the host.
        """
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
        if not self.config.reweight:
            return Draw(pixels, cells, None)
        probability = self.probability(view, factor, pixels)
        return Draw(pixels, cells, (1 / (len(classes.order) * probability)).float())

    def probability(self, view: int, factor: int, pixels: Tensor) -> Tensor:
        """Returns the probability, (P,) float64, of pixels of a view; over all its pixels the sum is 1."""
        classes = self.classes(view, factor)
        *uniform, error = self.shares(classes)
        by_kind = torch.zeros(FAR + 1, dtype=torch.float64)
        for kinds, share in zip(UNIFORM, uniform, strict=True):
            by_kind[kinds.start : kinds.stop] += share / max(classes.place(kinds)[1], 1)
        cells = self.maps.cells_of(0, pixels, classes.width, factor)
        in_cell = error * self.maps.maps[view].reshape(-1).double()[cells]
        return by_kind[classes.kinds[pixels].long()] + in_cell / self._masses(view, factor).sum()

    def shares(self, classes: PixelClasses) -> Tensor:
        """Returns the shares, (5,) float64, of near, band, object, far and error; none without pixels."""
        wanted = (self.config.silhouette, self.config.inside, self.config.far)
        given = [
            share if classes.place(kinds)[1] else 0.0
            for kinds, share in zip(UNIFORM[1:], wanted, strict=True)
        ]
        shares = [1 - sum(given) - self.config.error, *given, self.config.error]
        if not classes.place(NEAR)[1]:  # nothing of the object is seen: all that is far takes the place
            shares = [0.0, 0.0, 0.0, 1 - self.config.error, self.config.error]
        return torch.tensor(shares, dtype=torch.float64)

    def classes(self, view: int, factor: int) -> PixelClasses:
        """Returns the classes of a view's pixels; kept, at 5 bytes a pixel, until the factor changes."""
        if factor != self._known_factor:
            self._known, self._known_factor = {}, factor
        if view not in self._known:
            size = reduced_size(self.size, factor)
            every = torch.arange(size[0] * size[1])
            mask = sample_reduced(self.dataset, view, every, factor)[1]["object_mask"]
            self._known[view] = classify(mask.bool().view(size), self.config, factor)
        return self._known[view]

    def take(self, cells: Tensor, outputs: Mapping[str, Tensor], rgb: Tensor) -> None:
        """Takes in how wrong the rays of a step were.

        Args:
            cells: (B, P) places in the maps.
            outputs: What the model returned for all rays; one read by the host.
            rgb: (B, P, 3) the photographs' colors in [-1, 1].
        """
        self.maps.take(cells, residuals_of(outputs, rgb, self.config.mask_error).cpu())

    def _lengths(self, factor: int) -> tuple[Tensor, Tensor]:
        """Returns how many rows and how many columns each row and column of cells has."""
        side = self.config.error_cell // factor
        sides = zip(reduced_size(self.size, factor), self.maps.maps.shape[1:], strict=True)
        heights, widths = ((size - side * torch.arange(cells)).clamp(0, side) for size, cells in sides)
        return heights, widths

    def _masses(self, view: int, factor: int) -> Tensor:
        """Returns residual times number of pixels of a view's cells, (rows columns,) float64."""
        heights, widths = self._lengths(factor)
        return (self.maps.maps[view].double() * heights[:, None] * widths).reshape(-1)

    def _by_error(self, view: int, factor: int, within: Tensor) -> Tensor:
        """Turns numbers uniform on [0, 1) into pixels whose probability is their cell's residual."""
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
