"""Renders whole images, for evaluation, plots, novel views and the library.

H, W image height and width, P rays of a chunk, N rays along each side of a pixel at an edge, E such pixels.
Pixels are in row order, uv = (column, row).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch
from torch import Tensor
from torch.nn import functional

from idr.files import write_atomic
from idr.geometry.cameras import camera_depth
from idr.progress_bar import with_progress

Forward = Callable[[dict[str, Tensor]], Mapping[str, Any]]
"""``IDRNetwork.forward`` in evaluation mode."""

DEFAULT_CHUNK_PIXELS = 65_536
"""Pixels per call of the network. With 8 layers of 512 units they take 0.3 GiB with the accelerated tracer
and 1.4 GiB with the published one, which samples 100 depths per ray."""

WHITE = 1.0


@dataclass(frozen=True)
class RenderedImage:
    """A rendered view, on the CPU and without gradients.

    Attributes:
        rgb: (H, W, 3) colors in [-1, 1], white (1) without a hit.
        hit: (H, W) bool, True if the ray hits the surface.
        points: (H, W, 3) end points of the rays, unit-sphere coordinates; on the surface if ``hit``.
        depth: (H, W) distance of the surface along the optical axis, unit-sphere units; infinite without a
            hit.
        sdf: (H, W) the network's value at ``points``.
    """

    rgb: Tensor
    hit: Tensor
    points: Tensor
    depth: Tensor
    sdf: Tensor

    @property
    def rgb01(self) -> Tensor:
        """(H, W, 3) colors in [0, 1]."""
        return _rgb01(self.rgb)


@dataclass(frozen=True)
class AntialiasedImage:
    """A rendered view with several rays per pixel at edges, on the CPU and without gradients.

    Attributes:
        centers: One ray through the center of each pixel. Depths and points of several rays have no
            meaningful mean at an edge: it lies on neither surface.
        rgb: (H, W, 3) mean colors of each pixel's rays in [-1, 1]. A ray without a hit is white.
        coverage: (H, W) share of each pixel's rays that hit, in [0, 1].
    """

    centers: RenderedImage
    rgb: Tensor
    coverage: Tensor

    @property
    def rgb01(self) -> Tensor:
        """(H, W, 3) colors in [0, 1]."""
        return _rgb01(self.rgb)


@dataclass(frozen=True)
class EdgeRule:
    """Which pixels are edges: those with a large range of values within their 3 x 3 neighborhood.

    A neighborhood in which some rays hit and some miss is always an edge, the silhouette. Larger thresholds
    trace fewer rays and leave more aliasing. With the defaults 11 % of a view of ``trained_models/demo_1``
    (160 x 128) are edges, and no color differs by more than 0.011 from that of 2 x 2 rays everywhere.

    Attributes:
        color: Range of a color channel, colors in [0, 1].
        depth: Range of the depths of hits, in widths of the pixel at its depth (depth / focal length).
        normal_degrees: Angle between normals, degrees. A normal is that of the four points of 2 x 2 pixels.
    """

    color: float = 0.15
    depth: float = 8.0
    normal_degrees: float = 30.0

    def edges(self, image: RenderedImage, focal: float) -> Tensor:
        """Returns the edges, (H, W) bool, of an image with one ray per pixel; `focal` is in pixels."""
        hit, everywhere = image.hit, torch.ones_like(image.hit)
        edges = _ranges(hit[..., None].float(), everywhere)[..., 0] > 0
        edges |= _ranges(image.rgb01, everywhere).amax(dim=-1) > self.color
        edges |= _ranges(image.depth[..., None], hit)[..., 0] > self.depth * image.depth / focal
        whole = hit[1:, 1:] & hit[:-1, :-1] & hit[:-1, 1:] & hit[1:, :-1]  # (H - 1, W - 1)
        if whole.any():  # which an image of one row never is
            points = image.points
            falling, rising = points[1:, 1:] - points[:-1, :-1], points[:-1, 1:] - points[1:, :-1]
            normals = functional.normalize(torch.cross(falling, rising, dim=-1), dim=-1)  # (H - 1, W - 1, 3)
            half_chord = _ranges(normals, whole, window=2).norm(dim=-1) / 2.0  # of unit vectors
            edges |= 2.0 * half_chord.clamp_max(1.0).asin() > math.radians(self.normal_degrees)
        return edges


def render_image(
    forward: Forward,
    intrinsics: Tensor,
    pose: Tensor,
    img_res: tuple[int, int],
    object_mask: Tensor | None = None,
    chunk_pixels: int = DEFAULT_CHUNK_PIXELS,
) -> RenderedImage:
    """Renders every pixel of a view in chunks, which bounds memory.

    Args:
        forward: The model in evaluation mode: takes ``intrinsics`` (1, 4, 4), ``uv`` (1, P, 2), ``pose``
            (1, 4, 4) or (1, 7) and ``object_mask`` (1, P); returns ``points`` (P, 3), ``rgb_values`` (P, 3),
            ``network_object_mask`` (P,) and ``sdf_output`` (P, 1). It is called under `torch.no_grad` and
            enables gradients itself if it needs them.
        intrinsics: (4, 4) K; determines device and dtype.
        pose: (4, 4) camera-to-world or (7,) quaternion (w, x, y, z) and center, unit-sphere coordinates.
        img_res: Height and width in pixels.
        object_mask: (H * W,) bool mask for the model, or None for all True. The published tracer ignores it
            in evaluation.
        chunk_pixels: Pixels per call of the model, at least 1.

    Returns:
        The image. Pixels without a hit are white, whatever the model returns there.

    Raises:
        ValueError: A shape is wrong, or ``chunk_pixels`` is not positive.
    """
    height, width = (int(size) for size in img_res)
    num_pixels = height * width
    if chunk_pixels < 1:
        raise ValueError(f"chunk_pixels = {chunk_pixels}: expected at least 1")
    if intrinsics.shape != (4, 4) or tuple(pose.shape) not in {(4, 4), (7,)}:
        raise ValueError(
            f"intrinsics {tuple(intrinsics.shape)} and pose {tuple(pose.shape)}: "
            "expected (4, 4) and (4, 4) or (7,)"
        )
    if object_mask is not None and object_mask.numel() != num_pixels:
        raise ValueError(f"object_mask of {object_mask.numel()} pixels for an image of {height} x {width}")

    device = intrinsics.device
    mask = torch.ones(num_pixels, dtype=torch.bool) if object_mask is None else object_mask.reshape(-1).bool()
    mask, pose = mask.to(device), pose.to(intrinsics)
    rgb = torch.full((num_pixels, 3), WHITE)
    hit = torch.zeros(num_pixels, dtype=torch.bool)
    points, depth, sdf = torch.zeros(num_pixels, 3), torch.zeros(num_pixels), torch.zeros(num_pixels)
    with torch.no_grad():
        for start in with_progress(range(0, num_pixels, chunk_pixels), "rendering"):
            index = torch.arange(start, min(start + chunk_pixels, num_pixels), device=device)  # (P,)
            uv = torch.stack((index % width, index // width), dim=-1).to(intrinsics.dtype)  # (P, 2)
            outputs = _trace(forward, intrinsics, pose, uv, mask[index])
            chunk = slice(start, start + index.numel())
            chunk_hit = outputs["network_object_mask"].reshape(-1)
            rgb[chunk] = _colors(outputs)
            hit[chunk] = chunk_hit.cpu()
            points[chunk] = outputs["points"].float().cpu()
            chunk_depth = camera_depth(outputs["points"].to(pose)[None], pose[None])[0]
            depth[chunk] = torch.where(chunk_hit, chunk_depth, torch.inf).float().cpu()
            sdf[chunk] = outputs["sdf_output"].reshape(-1).float().cpu()
    shape = (height, width)
    return RenderedImage(
        rgb.view(*shape, 3), hit.view(shape), points.view(*shape, 3), depth.view(shape), sdf.view(shape)
    )


def render_antialiased(
    forward: Forward,
    intrinsics: Tensor,
    pose: Tensor,
    img_res: tuple[int, int],
    supersample: int,
    chunk_pixels: int = DEFAULT_CHUNK_PIXELS,
    rule: EdgeRule = EdgeRule(),
) -> AntialiasedImage:
    """Renders a view with N x N rays at edges and one ray elsewhere.

    The rays of a pixel are centered: with integer pixel coordinates at pixel centers, their offsets are
    (k + 1/2) / N - 1/2 along each axis, k = 0 ... N - 1. Structures that no ray through a pixel's center
    meets are not found. Colors are averaged as they are stored, as programs that shrink photographs do.

    Args:
        forward: The model in evaluation mode, see `render_image`.
        intrinsics: (4, 4) K; determines device and dtype.
        pose: (4, 4) or (7,), see `render_image`.
        img_res: Height and width in pixels.
        supersample: N, at least 1; 1 traces one ray per pixel everywhere.
        chunk_pixels: Rays per call of the model, at least 1.
        rule: Which pixels are edges.

    Raises:
        ValueError: A shape is wrong, or ``supersample`` or ``chunk_pixels`` is not positive.
    """
    if supersample < 1:
        raise ValueError(f"supersample = {supersample}: expected at least 1")
    centers = render_image(forward, intrinsics, pose, img_res, chunk_pixels=chunk_pixels)
    rgb, coverage = centers.rgb.clone(), centers.hit.float()
    if supersample == 1:
        return AntialiasedImage(centers, rgb, coverage)
    edges = rule.edges(centers, float(intrinsics[0, 0]))
    pixels = edges.nonzero().flip(-1).to(intrinsics)  # (E, 2), column and row
    per_pixel = supersample**2
    sums = torch.zeros(len(pixels), 4)  # of the colors and of the hits
    pose = pose.to(intrinsics)
    with torch.no_grad():
        for start in with_progress(range(0, len(pixels) * per_pixel, chunk_pixels), "edges"):
            stop = min(start + chunk_pixels, len(pixels) * per_pixel)
            index = torch.arange(start, stop, device=intrinsics.device)  # (P,), the rays of a pixel in a row
            pixel, ray = index // per_pixel, index % per_pixel
            steps = torch.stack((ray % supersample, ray // supersample), dim=-1).to(pixels)  # (P, 2)
            uv = pixels[pixel] + ((steps + 0.5) / supersample - 0.5)
            outputs = _trace(forward, intrinsics, pose, uv, torch.ones_like(index, dtype=torch.bool))
            hit = outputs["network_object_mask"].reshape(-1, 1).float().cpu()
            sums.index_add_(0, pixel.cpu(), torch.cat((_colors(outputs), hit), dim=-1))
    rgb[edges], coverage[edges] = sums[:, :3] / per_pixel, sums[:, 3] / per_pixel
    return AntialiasedImage(centers, rgb, coverage)


def _trace(
    forward: Forward, intrinsics: Tensor, pose: Tensor, uv: Tensor, inside: Tensor
) -> Mapping[str, Any]:
    """Calls the model for (P, 2) positions in an image, with a mask (P,)."""
    return forward(
        {"intrinsics": intrinsics[None], "uv": uv[None], "pose": pose[None], "object_mask": inside[None]}
    )


def _colors(outputs: Mapping[str, Any]) -> Tensor:
    """(P, 3) colors on the CPU, white without a hit."""
    hit = outputs["network_object_mask"].reshape(-1, 1)
    return torch.where(hit, outputs["rgb_values"], WHITE).float().cpu()


def _rgb01(rgb: Tensor) -> Tensor:
    return ((rgb + 1.0) / 2.0).clamp(0.0, 1.0)


def _ranges(values: Tensor, valid: Tensor, window: int = 3) -> Tensor:
    """Returns the range of each channel of the valid values around each pixel, (H, W, C), 0 without any.

    Values are (H, W, C), or (H - 1, W - 1, C) at the corners between pixels for a `window` of 2.
    """
    greatest, least = (
        functional.max_pool2d(
            torch.where(valid[..., None], signed, -torch.inf).permute(2, 0, 1), window, 1, padding=1
        )
        for signed in (values, -values)
    )  # (C, H, W), the second one negated
    return (greatest + least).clamp_min(0.0).permute(1, 2, 0)


def write_image(rgb01: Tensor, path: Path) -> None:
    """Writes colors as an 8-bit PNG file atomically, rounded to the nearest level.

    Args:
        rgb01: (H, W, 3) or (H, W) gray, clipped to [0, 1].
        path: The file; missing folders are created.

    Raises:
        OutputError: The file cannot be written.
    """
    levels = (rgb01.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    write_atomic(path, lambda file: iio.imwrite(file, levels, extension=".png"))
