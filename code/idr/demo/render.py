"""Exact renderings of the built-in scene: sphere tracing with the Lipschitz bound, supersampled pixels.

R rays, S samples per pixel. numpy in float64, in the unit-sphere frame. Independent of the model's tracer and
of its rays, so that each can be tested against the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.demo.appearance import shade
from idr.demo.teapot import BOUNDING_RADIUS, Array, in_blocks, normal, sdf

MIN_STEP = 5e-4
"""Only rays that are inside the object for less than this length may be counted as misses."""

_BRACKET_STEPS = 3  # regula falsi (Illinois) iterations in a bracket of MIN_STEP: exact to about 1e-10
_WHITE = 1.0
_SAMPLES_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class RenderedView:
    """A rendered view.

    Attributes:
        rgb: (H, W, 3) in [0, 1], mean over each pixel's samples, white for misses.
        coverage: (H, W) share of each pixel's samples that hit the object.
    """

    rgb: Array
    coverage: Array

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W) 255 where more than half of the pixel shows the object, else 0."""
        return np.where(self.coverage > 0.5, 255, 0).astype(np.uint8)


def camera_rays(intrinsics: Array, pose: Array, uv: Array) -> tuple[Array, Array]:
    """Returns the camera's center, (3,), and the unit directions, (R, 3), of rays through pixels.

    Args:
        intrinsics: (4, 4) or (3, 3) upper triangular K, K[2, 2] = 1.
        pose: (4, 4) camera-to-world.
        uv: (R, 2) column and row; integers are pixel centers.
    """
    at_depth_one = np.linalg.solve(intrinsics[:3, :3], np.column_stack((uv, np.ones(len(uv)))).T).T
    directions = at_depth_one @ pose[:3, :3].T
    return pose[:3, 3], directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _chord(origins: Array, directions: Array, radius: float) -> tuple[Array, Array]:
    """Depths at which rays enter and leave a ball; equal where they miss it or it lies behind them."""
    middle = -np.einsum("ij,ij->i", origins, directions)
    half = np.sqrt(np.maximum(radius**2 - np.einsum("ij,ij->i", origins, origins) + middle**2, 0.0))
    return np.maximum(middle - half, 0.0), np.maximum(middle + half, 0.0)


def intersect(origins: Array, directions: Array, start: Array | None = None) -> tuple[Array, Array]:
    """Finds the first intersections of rays with the object.

    `sdf` is 1-Lipschitz, so a step of its value cannot cross the surface. Steps are at least MIN_STEP long; a
    step that ends inside therefore has exactly that length, and brackets the surface.

    Args:
        origins: (R, 3), outside the object.
        directions: (R, 3) unit vectors.
        start: (R,) lower bounds of the depth of any hit; None for the entry into the bounding ball.

    Returns:
        depth: (R,) distance to the first hit, NaN without one.
        hit: (R,) bool.
    """
    near, far = _chord(origins, directions, BOUNDING_RADIUS)
    depth = near if start is None else np.maximum(near, start)
    before, value_before, value_behind = (np.full(len(depth), np.nan) for _ in range(3))
    active = np.flatnonzero(depth < far)
    while active.size:
        at = depth[active]
        value = sdf(origins[active] + at[:, None] * directions[active])
        step = np.maximum(value, MIN_STEP)
        inside = value <= 0
        value_behind[active[inside]] = value[inside]
        active, at, value, step = active[~inside], at[~inside], value[~inside], step[~inside]
        before[active], value_before[active] = at, value
        depth[active] = at + step
        active = active[at + step < far[active]]
    hit = ~np.isnan(value_behind)
    result = np.full(len(depth), np.nan)
    result[hit] = _refine(*(x[hit] for x in (origins, directions, before, depth, value_before, value_behind)))
    return result, hit


def _refine(origins: Array, directions: Array, low: Array, high: Array, f_low: Array, f_high: Array) -> Array:
    """Regula falsi with the Illinois rule, between low (outside) and high (inside)."""
    unbracketed = np.isnan(low)  # the ray starts on the surface
    low, f_low = np.where(unbracketed, high, low), np.where(unbracketed, 0.0, f_low)
    last_side = np.zeros(len(low))
    for _ in range(_BRACKET_STEPS):
        middle = low + (high - low) * f_low / np.maximum(f_low - f_high, 1e-300)
        value = sdf(origins + middle[:, None] * directions)
        outside = value > 0
        # Illinois rule: halve the value of an end that was kept twice, so that both ends converge.
        f_high = np.where(outside & (last_side > 0), 0.5 * f_high, np.where(outside, f_high, value))
        f_low = np.where(~outside & (last_side < 0), 0.5 * f_low, np.where(outside, value, f_low))
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
        last_side = np.where(outside, 1.0, -1.0)
    return low + (high - low) * f_low / np.maximum(f_low - f_high, 1e-300)


def safe_start(origin: Array, directions: Array, spread: float) -> Array:
    """Lower bounds, (R,), of the hit depths of bundles of rays; infinite if all rays of a bundle miss.

    A ray differs from the central ray of its bundle, of unit direction (R, 3) and the same origin (3,), by at
    most `spread` in direction, hence by t * spread in position at depth t; its `sdf` is at least that of the
    central ray minus t * spread.
    """
    origins = np.broadcast_to(origin, directions.shape)
    # Half width of the bundle where it leaves the ball.
    margin = spread * (np.linalg.norm(origin) + BOUNDING_RADIUS)
    near, far = _chord(origins, directions, BOUNDING_RADIUS + margin)
    depth = np.where(near < far, near, np.inf)
    active = np.flatnonzero(near < far)
    while active.size:
        at = depth[active]
        value = sdf(origin + at[:, None] * directions[active])
        step = (value - at * spread) / (1 + spread)
        going = step > max(0.5 * margin, MIN_STEP)
        active, at = active[going], at[going] + step[going]
        out = at > far[active]
        depth[active] = np.where(out, np.inf, at)
        active = active[~out]
    return depth


def subpixel_offsets(supersampling: int) -> Array:
    """(S, 2) offsets in (-0.5, 0.5), S = supersampling squared: a grid symmetric about the pixel's center."""
    along = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    return np.stack(np.meshgrid(along, along, indexing="xy"), axis=-1).reshape(-1, 2)


def pixel_centers(img_res: tuple[int, int]) -> Array:
    """(H W, 2) columns and rows of all pixels in row-major order."""
    rows, columns = np.indices(img_res).reshape(2, -1)
    return np.column_stack((columns, rows)).astype(np.float64)


def colors(origins: Array, directions: Array, depth: Array) -> Array:
    """(R, 3) RGB in [0, 1] of the points at the finite depths, (R,), of rays that hit."""
    rays = np.concatenate((origins + depth[:, None] * directions, directions), axis=1)
    return in_blocks(lambda ray: shade(ray[:, :3], normal(ray[:, :3]), -ray[:, 3:]), rays)


def render(intrinsics: Array, pose: Array, img_res: tuple[int, int], supersampling: int) -> RenderedView:
    """Renders a view by a camera outside the bounding ball; each pixel is the mean of its samples.

    `supersampling` is the number of samples along each side of a pixel.
    """
    height, width = img_res
    offsets = subpixel_offsets(supersampling)
    uv = pixel_centers(img_res)
    rgb, coverage = np.full((len(uv), 3), _WHITE), np.zeros(len(uv))
    # Unit directions differ by at most the distance of their points at depth one.
    inverse = np.linalg.inv(intrinsics[:3, :3])
    spread = float(np.linalg.norm(offsets @ inverse[:2, :2].T, axis=1).max())
    pixels_at_once = max(_SAMPLES_AT_ONCE // len(offsets), 1)
    for begin in range(0, len(uv), pixels_at_once):
        chunk = slice(begin, begin + pixels_at_once)
        origin, centers = camera_rays(intrinsics, pose, uv[chunk])
        start = safe_start(origin, centers, spread)
        candidates = np.flatnonzero(np.isfinite(start))
        samples = (uv[chunk][candidates, None] + offsets).reshape(-1, 2)  # (R, 2), R = pixels * S
        _, directions = camera_rays(intrinsics, pose, samples)
        origins = np.broadcast_to(origin, directions.shape)
        depth, hit = intersect(origins, directions, np.repeat(start[candidates], len(offsets)))
        color = np.full((len(samples), 3), _WHITE)
        color[hit] = colors(origins[hit], directions[hit], depth[hit])
        rgb[begin + candidates] = color.reshape(len(candidates), len(offsets), 3).mean(axis=1)
        coverage[begin + candidates] = hit.reshape(len(candidates), len(offsets)).mean(axis=1)
    return RenderedView(rgb.reshape(height, width, 3), coverage.reshape(height, width))


def exact_forward(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renders the exact surface and colors of one view in place of `IDRNetwork.forward`.

    Args:
        inputs: `intrinsics` (1, 4, 4), `uv` (1, R, 2), `pose` (1, 4, 4).

    Returns:
        `points` (R, 3), for misses the ray's point closest to the origin; `rgb_values` (R, 3) in [-1, 1],
        white for misses; `sdf_output` (R, 1); `network_object_mask` (R,) bool. Device and dtype of `uv`.
    """
    intrinsics, pose, uv = (inputs[k][0].cpu().double().numpy() for k in ("intrinsics", "pose", "uv"))
    origin, directions = camera_rays(intrinsics, pose, uv)
    origins = np.broadcast_to(origin, directions.shape)
    depth, hit = intersect(origins, directions)
    closest = -np.einsum("ij,ij->i", origins, directions)
    points = origins + np.where(hit, depth, closest)[:, None] * directions
    rgb = np.full((len(directions), 3), _WHITE)
    rgb[hit] = colors(origins[hit], directions[hit], depth[hit])
    values = {"points": points, "rgb_values": 2 * rgb - 1, "sdf_output": sdf(points)[:, None]}
    outputs = {name: torch.from_numpy(array).to(inputs["uv"]) for name, array in values.items()}
    return outputs | {"network_object_mask": torch.from_numpy(hit).to(inputs["uv"].device)}
