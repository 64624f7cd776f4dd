"""Photometric consistency of small surface patches across views.

A patch around a pixel of the reference image is warped into a source image by the homography of the tangent
plane at the pixel's surface point. If point and normal are correct, both patches show the same piece of the
surface (multi-view stereo; for neural surfaces: Darmon et al. 2022, NeuralWarp, section 3.2, and Fu et al.
2022, Geo-NeuS, section 3.3). IDR has one point and one normal per ray: a patch needs no network evaluations.

N patches, V source views per patch, S = size^2 samples per patch, B images of H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.model.twins import find_kernel

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of R, G, B in a gray value (ITU-R BT.601)."""


@dataclass(frozen=True)
class View:
    """Cameras, one per patch or per pair of patch and source view (...,).

    Attributes:
        intrinsics: (..., 3, 3) K.
        rotation: (..., 3, 3) camera-to-world.
        center: (..., 3) in the unit-sphere frame.
    """

    intrinsics: Tensor
    rotation: Tensor
    center: Tensor

    @staticmethod
    def of(intrinsics: Tensor, pose: Tensor) -> View:
        """Returns the views of (..., 4, 4) intrinsics and camera-to-world poses."""
        return View(intrinsics[..., :3, :3], pose[..., :3, :3], pose[..., :3, 3])


@dataclass(frozen=True)
class Photographs:
    """The images from which patches are sampled.

    Attributes:
        rgb: (B, H, W, 3) uint8.
        masks: (B, H, W) bool, pixels on the object.
    """

    rgb: Tensor
    masks: Tensor

    @staticmethod
    def of(dataset: Any) -> Photographs:
        """Returns those of a data set with the attributes of `SceneDataset`, without a copy."""
        height, width = dataset.img_res
        return Photographs(dataset.images.view(-1, height, width, 3), dataset.masks.view(-1, height, width))

    def reduced(self, factor: int) -> Photographs:
        """Returns means over blocks of pixels; a block is on the object if at least half its pixels are."""
        rows, columns = (size // factor for size in self.masks.shape[1:])
        rgb, masks = [], []
        for image, mask in zip(self.rgb, self.masks, strict=True):  # one at a time to bound memory
            blocks = image[: rows * factor, : columns * factor].view(rows, factor, columns, factor, 3)
            rgb.append(blocks.to(torch.float32).mean(dim=(1, 3)).round().to(torch.uint8))
            inside = mask[: rows * factor, : columns * factor].view(rows, factor, columns, factor)
            masks.append(2 * inside.sum(dim=(1, 3)) >= factor**2)
        return Photographs(torch.stack(rgb), torch.stack(masks))


@dataclass(frozen=True)
class PatchShape:
    """The square sampling grid of a patch and its texture threshold.

    Attributes:
        size: Samples per side, odd.
        stride: Pixels between samples.
        min_variance: Minimum variance of a patch's gray values in [0, 1] without their part of degree 2;
            patches below count as textureless. Highlights are bright, but smooth.
    """

    size: int = 7
    stride: float = 1.0
    min_variance: float = 2e-5

    def offsets(self, like: Tensor) -> Tensor:
        """Returns the (S, 2) offsets of the samples from the center, in pixels (column, row)."""
        half = self.size // 2
        steps = torch.arange(-half, half + 1, dtype=like.dtype, device=like.device) * self.stride
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack((columns, rows), dim=-1).reshape(-1, 2)

    def polynomials(self, like: Tensor) -> Tensor:
        """Returns an orthonormal basis, (S, 6), of polynomials of the offsets: 3 to degree 1, 3 more to 2."""
        x, y = self.offsets(like).double().unbind(dim=-1)
        monomials = torch.stack((torch.ones_like(x), x, y, x * x, x * y, y * y), dim=-1)
        return torch.linalg.qr(monomials).Q.to(like.dtype)


def look_up(values: Tensor, *indices: Tensor) -> Tensor:
    """Returns ``values[indices]`` on the indices' device: photographs stay on the host."""
    return values[tuple(index.to(values.device) for index in indices)].to(indices[0].device)


def plane_homographies(points: Tensor, normals: Tensor, reference: View, source: View) -> Tensor:
    """Returns the homographies that a plane induces between two views.

    H = K_s (R + t n^T / d) K_r^-1 with R and t from the reference to the source camera, n the normal and d
    the plane's distance in the reference camera's frame (Hartley and Zisserman 2004, equation 13.2).

    Args:
        points: (N, 3) points on the planes, unit-sphere frame.
        normals: (N, 3) plane normals of any nonzero length.
        reference: Views (N,).
        source: Views (N, V).

    Returns:
        (N, V, 3, 3) maps from homogeneous reference pixels to source pixels, differentiable.
    """
    to_reference = reference.rotation.transpose(-1, -2)  # (N, 3, 3)
    normal = (to_reference @ normals.unsqueeze(-1)).unsqueeze(1)  # (N, 1, 3, 1)
    place = (to_reference @ (points - reference.center).unsqueeze(-1)).unsqueeze(1)
    distance = (normal * place).sum(dim=-2, keepdim=True)  # (N, 1, 1, 1)
    to_source = source.rotation.transpose(-1, -2)  # (N, V, 3, 3)
    rotation = to_source @ reference.rotation.unsqueeze(1)
    shift = to_source @ (reference.center.unsqueeze(1) - source.center).unsqueeze(-1)  # (N, V, 3, 1)
    between = rotation + shift @ normal.transpose(-1, -2) / distance
    return source.intrinsics @ between @ torch.linalg.inv(reference.intrinsics).unsqueeze(1)


def patch_costs(
    images: Photographs,
    reference: Tensor,
    pixels: Tensor,
    source: Tensor,
    homographies: Tensor,
    shape: PatchShape,
) -> tuple[Tensor, Tensor]:
    """Returns 1 - NCC of patches and their warps into the source views.

    NCC is the normalized cross-correlation of bilinearly interpolated gray values. It does not depend on
    exposure. Differs: each patch first loses its linear part, which is mostly shading: it fits many planes
    and moves with the light, not with the surface.

    Patches that cross the silhouette do not count: they would compare the background, which does not lie on
    the tangent plane, and round off the object.

    Args:
        images: The photographs.
        reference: (N,) index of each patch's reference image.
        pixels: (N, 2) float centers (column, row) of the patches in the reference images.
        source: (N, V) indices of the source images.
        homographies: (N, V, 3, 3) reference pixels to source pixels.
        shape: The sampling grid.

    Returns:
        cost: (N, V) 0 to 2, differentiable with respect to the homographies; 0 where not valid.
        valid: (N, V) bool, both patches are inside the masks, in front of the camera, and textured.
    """
    kernel = find_kernel("patch_loops")
    arguments: tuple[Any, ...] = (images, reference, pixels, source, homographies, shape)
    if kernel is not None and kernel.can_serve(images.rgb, homographies):
        cost, valid = kernel.patch_costs(*arguments)
        return cost, valid
    return plain_patch_costs(*arguments)


def plain_patch_costs(
    images: Photographs,
    reference: Tensor,
    pixels: Tensor,
    source: Tensor,
    homographies: Tensor,
    shape: PatchShape,
) -> tuple[Tensor, Tensor]:
    """Computes `patch_costs` in plain torch."""
    offsets = shape.offsets(homographies)
    places = pixels.unsqueeze(1) + offsets  # (N, S, 2)
    ours, ours_inside = _gray(images, reference, places)
    homogeneous = torch.cat((places, torch.ones_like(places[..., :1])), dim=-1)  # (N, S, 3)
    mapped = torch.einsum("nvij,nsj->nvsi", homographies, homogeneous)
    in_front = mapped[..., 2] > 0
    depth = torch.where(in_front, mapped[..., 2], torch.ones_like(mapped[..., 2]))
    theirs, theirs_inside = _gray(images, source, mapped[..., :2] / depth.unsqueeze(-1))  # (N, V, S)

    linear, quadratic = shape.polynomials(homographies).split(3, dim=1)
    ours, theirs = (patch - patch @ linear @ linear.T for patch in (ours.unsqueeze(1), theirs))
    our_square, their_square = (patch.square().sum(dim=-1) for patch in (ours, theirs))
    our_quadratic, their_quadratic = ((patch @ quadratic).square().sum(dim=-1) for patch in (ours, theirs))
    least = shape.min_variance * shape.size**2
    valid = ours_inside.unsqueeze(1) & theirs_inside & in_front.all(dim=-1)
    valid = valid & (our_square - our_quadratic >= least) & (their_square - their_quadratic >= least)
    product = torch.where(valid, our_square * their_square, torch.ones_like(their_square))
    ncc = (ours * theirs).sum(dim=-1) / product.sqrt()
    return torch.where(valid, 1 - ncc, torch.zeros_like(ncc)), valid


def _gray(images: Photographs, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Samples gray values in [0, 1] at (..., S, 2) in images (...,); also whether all lie on the object."""
    height, width = images.masks.shape[1:]
    last = places.new_tensor([width - 1, height - 1])
    inside = ((places >= 0) & (places <= last)).all(dim=-1)  # (..., S)
    nearest = torch.where(inside.unsqueeze(-1), (places.detach() + 0.5).floor(), places.new_zeros(())).long()
    inside = inside & look_up(images.masks, image.unsqueeze(-1), nearest[..., 1], nearest[..., 0])
    corner = torch.minimum(places.detach().floor().clamp(min=0), last - 1)
    corner = torch.nan_to_num(corner).long()
    fraction = places - corner
    first = (image.unsqueeze(-1) * height + corner[..., 1]) * width + corner[..., 0]  # (..., S)
    flat = images.rgb.reshape(-1, 3)
    weights = places.new_tensor(LUMINANCE) / 255
    corners = [look_up(flat, first + shift).to(places.dtype) @ weights for shift in (0, 1, width, width + 1)]
    x, y = fraction.unbind(dim=-1)
    above = corners[0] + x * (corners[1] - corners[0])
    below = corners[2] + x * (corners[3] - corners[2])
    return above + y * (below - above), inside.all(dim=-1)


def consistency_loss(cost: Tensor, valid: Tensor, best: int, max_cost: float) -> tuple[Tensor, Tensor]:
    """Averages each patch's lowest costs over its source views.

    A surface point is occluded in some views; their costs must not count.

    Args:
        cost: (N, V).
        valid: (N, V).
        best: Number of views per patch that count, those of lowest cost.
        max_cost: Higher costs do not count: the point is probably occluded or far from the surface.

    Returns:
        The sum of the counted costs divided by N times `best`, and their number.
    """
    infinite = torch.full_like(cost, torch.inf)
    smallest = torch.where(valid & (cost <= max_cost), cost, infinite).sort(dim=1).values[:, :best]
    counts = smallest.isfinite()
    return torch.where(counts, smallest, torch.zeros_like(smallest)).sum() / counts.numel(), counts.sum()
