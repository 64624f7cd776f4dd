"""The block ``loss.patch``: photometric consistency of patches, see `idr.model.patches`.

N patches of a step, V source views of each, B images of the scene, C candidate views of each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from idr.conf.blocks import check_positive
from idr.errors import InputError
from idr.geometry.cameras import resized_intrinsics
from idr.model.patches import (
    PatchShape,
    Photographs,
    View,
    consistency_loss,
    patch_costs,
    plane_homographies,
)
from idr.training.rays.pyramid import reduced_pixels
from idr.training.terms.step import Cameras, StepRays

OCCLUSION_MARGIN = 0.02
"""Surface this close in front of a point, unit-sphere units, is the point's own."""


@dataclass(frozen=True)
class PatchConfig:
    """Keys of the block ``loss.patch``.

    Attributes:
        weight: Weight of the term.
        begin: Time of the schedule, 0 to 1, when it begins.
        hold: Time until which the weight is constant.
        end: Time until which it then falls linearly to 0. Patches are planes: where the surface curves or has
            relief within one, the colors of single rays tell more in the end.
        rays: Shaded rays of a step that get a patch.
        size: Samples along a side of a patch, odd.
        stride: Pixels between samples, of the step's images: reduced ones have wider patches.
        views: Source views of each patch, drawn from twice as many candidates: those nearest in angle.
        best: Source views that count, those of smallest cost; occluded ones are taken to be among the others.
        trace_views: Whether source views also count only if no surface lies between camera and point.
        max_cost: Costs, 1 - NCC, above this do not count.
        min_variance: Smallest variance of a patch's gray values in [0, 1] without their part of degree 2:
            shading and highlights are no texture.
        min_cos: Smallest cosine between normal and view direction, in the reference and the source view.
        min_degrees: Smallest angle between the directions to the cameras of a reference and a source view.
        max_degrees: The largest.
    """

    LARGEST: ClassVar[dict[str, int]] = {"rays": 1_000_000, "size": 101, "views": 1000}

    weight: float
    begin: float = 0.08
    hold: float = 1.0
    end: float = 1.0
    rays: int = 256
    size: int = 7
    stride: float = 1.0
    views: int = 4
    best: int = 2
    trace_views: bool = False
    max_cost: float = 0.8
    min_variance: float = 2e-5
    min_cos: float = 0.2
    min_degrees: float = 4.0
    max_degrees: float = 40.0

    def __post_init__(self) -> None:
        check_positive(self, ("weight", "stride", "max_cost", "min_variance"), "loss.patch")
        if not 0 <= self.begin <= self.hold <= self.end <= 1:
            raise InputError(
                f"loss.patch.begin = {self.begin}, hold = {self.hold}, end = {self.end}: expected fractions "
                "of the schedule, 0 to 1, in order"
            )
        if self.size < 3 or self.size % 2 == 0:
            raise InputError(f"loss.patch.size = {self.size}: expected an odd number of samples, 3 or more")
        if self.rays < 1 or not 1 <= self.best <= self.views:
            raise InputError(
                f"loss.patch.rays = {self.rays}, best = {self.best}, views = {self.views}: expected 1 or "
                "more rays, and 1 to `views` best views"
            )
        if not 0 <= self.min_degrees < self.max_degrees <= 180:
            raise InputError(
                f"loss.patch.min_degrees = {self.min_degrees}, max_degrees = {self.max_degrees}: expected "
                "angles of 0 to 180 degrees, in order"
            )
        if not 0 < self.min_cos < 1:
            raise InputError(f"loss.patch.min_cos = {self.min_cos}: expected a cosine between 0 and 1")

    def weight_at(self, time: float) -> float:
        """Returns the weight at a time of the schedule."""
        if time < self.begin or time > self.end:
            return 0.0
        return self.weight if time <= self.hold else self.weight * (self.end - time) / (self.end - self.hold)


class PatchTerm:
    """Compares patches at some of a step's hits with neighboring photographs.

    Args:
        config: The block.
        dataset: The seam of `SceneDataset`, with ``images``, ``masks`` and ``img_res``.
        centers: (B, 3) camera centers at the start of training, unit-sphere frame.
        model: The seam of `IDRNetwork`, with ``is_free`` where ``trace_views`` is set.
    """

    name = "patch_loss"

    def __init__(self, config: PatchConfig, dataset: Any, centers: Tensor, model: Any) -> None:
        self.config, self.model = config, model
        self.images = Photographs.of(dataset)
        self._reduced = (1, self.images)
        self.shape = PatchShape(config.size, config.stride, config.min_variance)
        self.candidates = candidate_views(centers, 2 * config.views, config.min_degrees, config.max_degrees)

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, see `idr.training.terms.build.Term`."""
        config, zero = self.config, rays.points.new_zeros(())
        weight = config.weight_at(time)
        if weight == 0:
            return zero
        chosen = rays.choose_shaded(config.rays, generator)
        if len(chosen) == 0:
            return zero
        image, points = rays.image[chosen], rays.points[chosen]  # (N,), (N, 3)
        normals = functional.normalize(rays.normals[chosen], dim=1)
        source, exists = self._draw_sources(image, generator)  # (N, V)
        factor = rays.reduction
        block, pixel = (factor, factor), (1, 1)
        ours = resized_intrinsics(rays.intrinsics[chosen], block, pixel)
        theirs = resized_intrinsics(cameras.intrinsics, block, pixel)[source]
        reference, views = View.of(ours, rays.poses[chosen]), View.of(theirs, cameras.poses[source])
        pixels = reduced_pixels(rays.pixels[chosen], factor)
        facing = _cosine(normals, reference.center - points) > config.min_cos
        sees = _cosine(normals.unsqueeze(1), views.center - points.unsqueeze(1)) > config.min_cos
        cost, valid = patch_costs(
            self._images_of(factor), image, pixels, source,
            plane_homographies(points, normals, reference, views), self.shape,
        )  # fmt: skip
        valid = valid & exists & sees & facing.unsqueeze(1)
        if config.trace_views:
            patch, view = valid.nonzero(as_tuple=True)
            free = self.model.is_free(views.center[patch, view], points[patch], OCCLUSION_MARGIN)
            valid = valid.index_put((patch, view), free)
        loss, _ = consistency_loss(cost, valid, config.best, config.max_cost)
        return weight * loss

    def _images_of(self, factor: int) -> Photographs:
        """Returns the photographs reduced by a factor, kept until it changes."""
        if self._reduced[0] != factor:
            self._reduced = (factor, self.images if factor == 1 else self.images.reduced(factor))
        return self._reduced[1]

    def _draw_sources(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws V of each image's candidates: (N, V) views, and whether there are as many."""
        candidates = self.candidates.to(image.device)[image]  # (N, C)
        order = torch.rand(candidates.shape, generator=generator).to(image.device)
        order = torch.where(candidates >= 0, order, torch.full_like(order, 2.0))
        drawn = candidates.gather(1, order.argsort(dim=1)[:, : self.config.views])
        return drawn.clamp(min=0), drawn >= 0


def candidate_views(centers: Tensor, count: int, min_degrees: float, max_degrees: float) -> Tensor:
    """Returns the nearest views of each view.

    Args:
        centers: (B, 3) camera centers, unit-sphere frame.
        count: C.
        min_degrees: Smallest angle between the directions from the origin to two cameras.
        max_degrees: The largest.

    Returns:
        (B, C) indices, the nearest first, -1 where there are no more.
    """
    directions = functional.normalize(centers, dim=1)
    angles = torch.acos((directions @ directions.T).clamp(-1, 1))  # (B, B)
    allowed = (angles >= math.radians(min_degrees)) & (angles <= math.radians(max_degrees))
    allowed.fill_diagonal_(False)
    nearest = torch.where(allowed, angles, torch.full_like(angles, torch.inf)).sort(dim=1)
    found = torch.where(nearest.values.isfinite(), nearest.indices, torch.full_like(nearest.indices, -1))
    return functional.pad(found[:, :count], (0, max(count - found.shape[1], 0)), value=-1)


def _cosine(normals: Tensor, directions: Tensor) -> Tensor:
    """Returns the cosines between unit normals and directions, without gradient."""
    return (normals.detach() * functional.normalize(directions.detach(), dim=-1)).sum(dim=-1)
