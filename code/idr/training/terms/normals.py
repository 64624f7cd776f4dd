"""The block ``loss.normals``: one normal where the photograph has one color.

N hits of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from idr.conf.blocks import check_positive
from idr.model.patches import Photographs, look_up
from idr.training.rays.pyramid import reduced_pixels
from idr.training.terms.step import Cameras, StepRays

SAMPLES = 16
"""Pixels between two neighbors that are looked at for an edge."""

LONGER_SIDE = 400
"""Edges are looked for in photographs reduced to about this size, where samples are a few pixels apart."""


@dataclass(frozen=True)
class NormalsConfig:
    """Keys of the block ``loss.normals``.

    Attributes:
        weight: Weight of the term.
        rays: Shaded rays of a step whose normals are compared.
        radius: Largest distance between two neighbors, as a fraction of the image's longer side.
        contrast: Range of the colors between two neighbors, in [0, 1], at which their weight is 1/e.
    """

    LARGEST: ClassVar[dict[str, int]] = {"rays": 8192}

    weight: float
    rays: int = 1024
    radius: float = 0.2
    contrast: float = 0.02

    def __post_init__(self) -> None:
        check_positive(self, ("weight", "rays", "radius", "contrast"), "loss.normals")


class NormalsTerm:
    """1 - cos of the angle between the normals of two hits in one image, where no edge lies between them.

    Patches and colors do not constrain the shape of a surface without texture. Shading does: under constant
    light, the color changes with the normal. The weight of a pair is exp(-range / contrast), with the
    range of the colors along the line between the two pixels. This is the edge-aware smoothness of Godard et
    al. 2017, for normals in place of disparities.

    The data set is the seam of `SceneDataset`, with ``images``, ``masks`` and ``img_res``.
    """

    name = "normals_loss"

    def __init__(self, config: NormalsConfig, dataset: Any) -> None:
        self.config = config
        self.factor = max(max(dataset.img_res) // LONGER_SIDE, 1)
        images = Photographs.of(dataset)
        self.images = images if self.factor == 1 else images.reduced(self.factor)

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, see `idr.training.terms.build.Term`."""
        chosen = rays.choose_shaded(self.config.rays, generator)
        if len(chosen) == 0:
            return rays.points.new_zeros(())
        image, pixels = rays.image[chosen], self._reduced(rays.pixels[chosen])
        radius = self.config.radius * max(self.images.masks.shape[1:])
        first, second = draw_pairs(image, pixels, radius, generator)
        if len(first) == 0:
            return rays.points.new_zeros(())
        contrast = color_range(self.images, image[first], pixels[first], pixels[second])
        weight = torch.exp(-contrast / self.config.contrast)
        normals = rays.normals[chosen]
        cosine = functional.cosine_similarity(normals[first], normals[second], dim=1)
        return self.config.weight * (weight * (1 - cosine)).sum() / len(chosen)

    def _reduced(self, pixels: Tensor) -> Tensor:
        """Returns the places of (N, 2) pixels in the reduced photographs."""
        height, width = self.images.masks.shape[1:]
        last = pixels.new_tensor([width - 1, height - 1])
        return torch.minimum(reduced_pixels(pixels, self.factor).clamp(min=0), last)


def draw_pairs(
    image: Tensor, pixels: Tensor, radius: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws a neighbor in the same image for each of N hits that has one.

    Args:
        image: (N,) index of each hit's image.
        pixels: (N, 2) column and row.
        radius: Largest distance of a neighbor, in pixels; another hit of the same pixel is none.
        generator: Random generator on the host.

    Returns:
        The (M,) indices of these hits, image by image, and of their neighbors.
    """
    members = [(image == view).nonzero().squeeze(1) for view in image.unique()]
    group = pad_sequence(members, batch_first=True, padding_value=-1)  # (I, K) indices, I images
    exists, at = group >= 0, pixels[group]
    # (I, K, K); by a matrix product, the default, the distance to itself would not be exactly 0
    distance = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist")
    near = exists.unsqueeze(1) & (distance > 0) & (distance <= radius)
    draws = torch.rand(near.shape, generator=generator).to(pixels.device)
    largest, neighbor = draws.masked_fill_(~near, -1).max(dim=2)
    found = exists & (largest >= 0)
    return group[found], group.gather(1, neighbor)[found]


def color_range(images: Photographs, image: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Returns the range of the colors along lines in photographs.

    Args:
        images: The photographs.
        image: (N,) index of each line's image.
        start: (N, 2) column and row where it starts.
        end: (N, 2) column and row where it ends.

    Returns:
        (N,) the largest range of a channel, in [0, 1]; infinite where a line leaves the object's mask.
    """
    along = torch.linspace(0, 1, SAMPLES + 2, dtype=start.dtype, device=start.device).view(1, -1, 1)
    places = (start.unsqueeze(1) + along * (end - start).unsqueeze(1)).round().long()
    where = image.unsqueeze(1), places[..., 1], places[..., 0]  # (N, SAMPLES + 2) together
    colors = look_up(images.rgb, *where).to(start.dtype) / 255
    spread = (colors.amax(dim=1) - colors.amin(dim=1)).amax(dim=1)
    return torch.where(look_up(images.masks, *where).all(dim=1), spread, torch.full_like(spread, torch.inf))
