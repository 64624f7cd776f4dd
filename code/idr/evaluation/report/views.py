"""Reduced renderings with their photographs and error maps, for a page or a browser.

H, W height and width of the reduced view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.evaluation.metrics import mask_iou, masked_psnr
from idr.rendering import DEFAULT_CHUNK_PIXELS, render_antialiased
from idr.runs import Camera, Run
from idr.runs.exposure import fit_exposure
from idr.runs.views import read_view

ERROR_SCALE = 0.5
"""Error of the map's brightest color: mean over channels of colors in [0, 1]."""

DISAGREEMENT = (0.25, 0.45, 1.0)
"""Color of pixels where silhouette and mask disagree."""


@dataclass(frozen=True)
class ComparedView:
    """A photograph and its rendering at every n-th pixel.

    Attributes:
        number: Position of the image in its folder.
        photo: (H, W, 3) colors in [0, 1].
        rendered: (H, W, 3) colors in [0, 1], to look at.
        error: (H, W, 3) colors in [0, 1], see `error_map`; like the scores, of one ray per pixel.
        psnr: Over the pixels of the mask, dB.
        iou: Of the silhouette and the mask.
        step: n.
    """

    number: int
    photo: Tensor
    rendered: Tensor
    error: Tensor
    psnr: float
    iou: float
    step: int


def compare_view(
    run: Run,
    index: int,
    side: int,
    chunk_pixels: int = DEFAULT_CHUNK_PIXELS,
    supersample: int = 1,
    held_out: bool = False,
) -> ComparedView:
    """Renders and compares every n-th pixel of view `index`, at most `side` along the longer side.

    The view is a training view, or one that was held out. Nothing is interpolated: diag(1/n, 1/n, 1) K maps
    the centers of pixels 0, n, 2n, ... to 0, 1, 2, ... `supersample` rays along each side of a pixel smooth
    the edges of ``rendered``. If the run learned exposures, the rendering has the training view's, or one
    fitted to the held-out photograph.

    Raises:
        InputError: There is no such view.
    """
    full = run.held_out_camera(index) if held_out else run.training_camera(index)
    reduced, step = reduced_camera(full, side)
    view = read_view(run.held_out if held_out else run.scene, index)
    camera = reduced.tensors(run.device)
    shown = render_antialiased(run.model, *camera, reduced.img_res, supersample, chunk_pixels)
    image = shown.centers
    photo, mask = view.photo[::step, ::step], view.mask[::step, ::step]
    rgb, smooth = image.rgb01, shown.rgb01
    if run.exposures is not None:
        exposure = fit_exposure(image, photo, mask) if held_out else run.exposures[index]
        rgb, smooth = exposure.apply(rgb, image.hit), exposure.apply(smooth, shown.coverage)
    error = error_map(rgb, photo, image.hit, mask)
    psnr, iou = masked_psnr(rgb, photo, mask), mask_iou(image.hit, mask)
    return ComparedView(view.number, photo, smooth, error, psnr, iou, step)


def reduced_camera(camera: Camera, side: int) -> tuple[Camera, int]:
    """Returns a camera that sees every n-th pixel, and n, for at most `side` pixels along the longer side."""
    height, width = camera.img_res
    step = max(1, math.ceil(max(height, width) / side))
    intrinsics = torch.as_tensor(camera.intrinsics).clone()
    intrinsics[:2] /= step
    return Camera(intrinsics, camera.pose, (math.ceil(height / step), math.ceil(width / step))), step


def error_map(rendered: Tensor, photo: Tensor, hit: Tensor, mask: Tensor) -> Tensor:
    """Returns the color-coded difference of a rendering and its photograph, (H, W, 3) in [0, 1] each.

    It is black (equal) to yellow (mean difference 0.5 or more) on the object, blue where the rendered
    silhouette, (H, W) bool, and the mask disagree, white elsewhere.
    """
    error = (rendered - photo).abs().mean(dim=-1) / ERROR_SCALE
    heat = _heat((error.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy())
    painted = torch.ones_like(rendered)
    both = hit & mask
    painted[both] = torch.from_numpy(np.ascontiguousarray(heat)).to(rendered)[both] / 255.0
    painted[hit ^ mask] = torch.tensor(DISAGREEMENT).to(rendered)
    return painted


def _heat(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) levels as (H, W, 3) RGB colors of the map."""
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]  # type: ignore[return-value]


def error_scale(count: int = 9) -> list[str]:
    """Returns `count` CSS colors of the error map, for equal steps from 0 to `ERROR_SCALE`."""
    colors = _heat(np.linspace(0, 255, count).round().astype(np.uint8)[None])[0]
    return ["#" + bytes(color.tolist()).hex() for color in colors]


def to_bytes(rgb01: Tensor) -> NDArray[np.uint8]:
    """(H, W, 3) colors in [0, 1] as 8-bit levels, rounded to the nearest."""
    return (rgb01.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def spread(count: int, max_number: int) -> list[int]:
    """Returns up to `max_number` of `count` positions, evenly spaced from the first to the last."""
    return sorted({round(p) for p in np.linspace(0, count - 1, min(count, max_number))}) if count else []
