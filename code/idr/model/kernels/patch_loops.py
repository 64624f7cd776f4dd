"""Patch costs and their derivatives as compiled loops for a CPU (`idr.model.patches`).

The loop over samples computes the cost and, in the same pass, its derivative with respect to the homography,
so that the backward pass is one product. Values are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from idr.model.kernels.numba_support import ONE, ZERO, compiled, has_numba, in_threads
from idr.model.patches import LUMINANCE, PatchShape, Photographs

PATCHES_PER_JOB = 32

RED, GREEN, BLUE = (np.float32(weight / 255) for weight in LUMINANCE)

_compiled = compiled(fastmath={"contract"})

is_available = has_numba


def can_serve(images: Tensor, homographies: Tensor) -> bool:
    """Whether the loops support these inputs: on a CPU, in float32, from uint8 images."""
    return homographies.device.type == images.device.type == "cpu" and homographies.dtype == torch.float32


@_compiled
def _gray(image: Any, row: int, column: int) -> Any:
    """Returns the gray value of a pixel in [0, 1]."""
    return RED * image[row, column, 0] + GREEN * image[row, column, 1] + BLUE * image[row, column, 2]


@_compiled
def _sample(image: Any, x: Any, y: Any) -> Any:
    """Returns the gray value at a position inside an image and its derivatives w.r.t. column and row."""
    column, row = min(int(x), image.shape[1] - 2), min(int(y), image.shape[0] - 2)
    p, q = x - np.float32(column), y - np.float32(row)
    a, b = _gray(image, row, column), _gray(image, row, column + 1)
    c, d = _gray(image, row + 1, column), _gray(image, row + 1, column + 1)
    above, below = a + p * (b - a), c + p * (d - c)
    return above + q * (below - above), (ONE - q) * (b - a) + q * (d - c), below - above


@_compiled
def _remove_shading(values: Any, basis: Any) -> tuple[Any, Any]:
    """Subtracts the linear part in place; returns the sums of squares of the rest, and without degree 2.

    The rows of the basis (6, S) are those of `PatchShape.polynomials`.
    """
    quadratic = ZERO
    for k in range(6):
        part = ZERO
        for s in range(values.shape[0]):
            part += values[s] * basis[k, s]
        if k >= 3:
            quadratic += part * part
            continue
        for s in range(values.shape[0]):
            values[s] -= part * basis[k, s]
    square = ZERO
    for s in range(values.shape[0]):
        square += values[s] * values[s]
    return square, square - quadratic


@_compiled
def _is_inside(x: Any, y: Any, mask: Any) -> bool:
    """Whether a position lies in an image and its nearest pixel on the object."""
    if not (x >= ZERO and y >= ZERO and x <= mask.shape[1] - 1 and y <= mask.shape[0] - 1):
        return False
    return bool(mask[int(y + np.float32(0.5)), int(x + np.float32(0.5))])


@_compiled
def _map_patch(image: Any, mask: Any, x: Any, y: Any, h: Any, mapped: Any) -> bool:
    """Samples a patch in a source image; returns False if it leaves the object.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        x: (S,) columns in the reference image.
        y: (S,) rows there.
        h: (3, 3) homography.
        mapped: (6, S) output: value, its derivatives w.r.t. column and row, column, row, 1 / depth.
    """
    for s in range(x.shape[0]):
        w = h[2, 0] * x[s] + h[2, 1] * y[s] + h[2, 2]
        if not w > ZERO:
            return False
        u = (h[0, 0] * x[s] + h[0, 1] * y[s] + h[0, 2]) / w
        v = (h[1, 0] * x[s] + h[1, 1] * y[s] + h[1, 2]) / w
        if not _is_inside(u, v, mask):
            return False
        mapped[0, s], mapped[1, s], mapped[2, s] = _sample(image, u, v)
        mapped[3, s], mapped[4, s], mapped[5, s] = u, v, ONE / w
    return True


@_compiled
def _differentiate(ours: Any, mapped: Any, x: Any, y: Any, scale: Any, ratio: Any, slope: Any) -> None:
    """Adds d cost / d H (3, 3) to slope, with d cost / d value = -(scale ours - ratio theirs).

    This holds for the sampled values too: both patches are orthogonal to linear functions.
    """
    for s in range(x.shape[0]):
        by_value = ratio * mapped[0, s] - scale * ours[s]
        u, v, inverse = mapped[3, s], mapped[4, s], mapped[5, s]
        by_u, by_v = by_value * mapped[1, s] * inverse, by_value * mapped[2, s] * inverse
        by_w = -(by_u * u + by_v * v)
        slope[0, 0] += by_u * x[s]
        slope[0, 1] += by_u * y[s]
        slope[0, 2] += by_u
        slope[1, 0] += by_v * x[s]
        slope[1, 1] += by_v * y[s]
        slope[1, 2] += by_v
        slope[2, 0] += by_w * x[s]
        slope[2, 1] += by_w * y[s]
        slope[2, 2] += by_w


@_compiled
def _costs(
    images: Any, masks: Any, reference: Any, pixels: Any, source: Any, homographies: Any, offsets: Any,
    basis: Any, least: Any, first: int, last: int, cost: Any, valid: Any, slope: Any,
) -> None:  # fmt: skip
    """Computes the patches first, ..., last - 1; slope (N, V, 3, 3), initially zero, gets d cost / d H."""
    num_samples = offsets.shape[0]
    x, y = np.empty(num_samples, np.float32), np.empty(num_samples, np.float32)
    ours, mapped = np.empty(num_samples, np.float32), np.empty((6, num_samples), np.float32)
    for n in range(first, last):
        image, mask, inside = images[reference[n]], masks[reference[n]], True
        for s in range(num_samples):
            x[s], y[s] = pixels[n, 0] + offsets[s, 0], pixels[n, 1] + offsets[s, 1]
            if not _is_inside(x[s], y[s], mask):
                inside = False
                break
            ours[s] = _sample(image, x[s], y[s])[0]
        if not inside:
            continue
        our_square, texture = _remove_shading(ours, basis)
        if texture < least:
            continue
        for v in range(source.shape[1]):
            if not _map_patch(images[source[n, v]], masks[source[n, v]], x, y, homographies[n, v], mapped):
                continue
            their_square, texture = _remove_shading(mapped[0], basis)
            if texture < least:
                continue
            product = ZERO
            for s in range(num_samples):
                product += ours[s] * mapped[0, s]
            scale = ONE / np.sqrt(our_square * their_square)
            ncc = product * scale
            cost[n, v], valid[n, v] = ONE - ncc, True
            _differentiate(ours, mapped, x, y, scale, ncc / their_square, slope[n, v])


class _Costs(torch.autograd.Function):
    """The loops as an autograd function."""

    @staticmethod
    def forward(ctx: Any, homographies: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        images, reference, pixels, source, shape = rest
        num_patches = source.shape[0]
        cost, valid = torch.zeros(source.shape), torch.zeros(source.shape, dtype=torch.bool)
        slope = torch.zeros(homographies.shape)
        tensors = (
            images.rgb,
            images.masks,
            reference,
            pixels,
            source,
            homographies,
            shape.offsets(homographies),
            shape.polynomials(homographies).T,
        )
        arrays: list[Any] = [t.detach().contiguous().numpy() for t in tensors]
        least = np.float32(shape.min_variance * shape.size**2)
        results = (cost.numpy(), valid.numpy(), slope.numpy())
        jobs = [(n, min(n + PATCHES_PER_JOB, num_patches)) for n in range(0, num_patches, PATCHES_PER_JOB)]
        in_threads(lambda first, last: _costs(*arrays, least, first, last, *results), jobs)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(valid)
        return cost, valid

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grad[..., None, None] * slope, None, None, None, None, None


def patch_costs(
    images: Photographs,
    reference: Tensor,
    pixels: Tensor,
    source: Tensor,
    homographies: Tensor,
    shape: PatchShape,
) -> tuple[Tensor, Tensor]:
    """Computes `idr.model.patches.patch_costs` in compiled loops."""
    cost, valid = _Costs.apply(homographies, images, reference, pixels, source, shape)
    return cost, valid
