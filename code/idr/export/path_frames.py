"""Renders camera paths: color, depth, normals and mask of each frame as PNG files.

F frames, H, W image height and width. Unit-sphere coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from idr.files import write_atomic
from idr.progress_bar import with_progress
from idr.rendering import AntialiasedImage, Forward, render_antialiased

OUTPUTS = ("color", "depth", "normal", "mask")
DEEPEST = 65535
FrameImage = NDArray[np.uint8] | NDArray[np.uint16]
Normals = Callable[[Tensor], Tensor]
"""(N, 3) points on the surface -> (N, 3) unit normals."""


@dataclass(frozen=True)
class Path3D:
    """A camera path.

    Attributes:
        intrinsics: (F, 4, 4) K of each frame, on the network's device.
        poses: (F, 4, 4) camera-to-world, unit-sphere coordinates.
        img_res: Height and width.
    """

    intrinsics: Tensor
    poses: NDArray[np.float64]
    img_res: tuple[int, int]

    def depth_range(self, radius: float) -> tuple[float, float]:
        """Returns the smallest and largest depth of the bounding sphere of a radius over all frames.

        One range for the whole path keeps a film of depths from flickering.
        """
        middle = -(self.poses[:, :3, 3] * self.poses[:, :3, 2]).sum(axis=1)
        near = max(float(middle.min()) - radius, 0.0)
        return near, max(float(middle.max()) + radius, near + radius)


@dataclass(frozen=True)
class FramePainter:
    """Turns rendered frames into images.

    Attributes:
        depth_range: Depths of the first and last gray level.
        normals: Normals for the output ``normal``.
    """

    depth_range: tuple[float, float]
    normals: Normals | None = None

    def image_of(self, kind: str, image: AntialiasedImage, pose: NDArray[np.float64]) -> FrameImage:
        """Returns one output of a rendered frame.

        Args:
            kind: One of `OUTPUTS`. ``color``: (H, W, 3), white without a hit. ``mask``: (H, W), the share of
                rays that hit, 255 for all. ``depth``: (H, W) 16 bits, 1 to 65535 over the depth range, 0
                without a hit. ``normal``: (H, W, 3), (n + 1) / 2 with x right, y up, z towards the camera,
                black without a hit. Depths and normals are those of the pixels' centers.
            image: The rendered frame.
            pose: (4, 4) camera-to-world.
        """
        if kind == "color":
            return (image.rgb01 * 255).round().to(torch.uint8).numpy()
        if kind == "mask":
            return (image.coverage * 255).round().to(torch.uint8).numpy()
        centers = image.centers
        if kind == "depth":
            near, far = self.depth_range
            share = (centers.depth.double().numpy() - near) / (far - near)
            levels = 1 + np.round(np.clip(np.where(centers.hit, share, 0), 0, 1) * (DEEPEST - 1))
            return np.where(centers.hit, levels, 0).astype(np.uint16)
        assert kind == "normal" and self.normals is not None, kind
        levels = np.zeros((*centers.hit.shape, 3), np.uint8)
        normals = self.normals(centers.points[centers.hit]).double().cpu().numpy() @ pose[:3, :3]
        levels[centers.hit.numpy()] = np.round((normals * [1, -1, -1] + 1) / 2 * 255).clip(0, 255)
        return levels


def film_frame(frame: FrameImage) -> NDArray[np.uint8]:
    """Returns an output as a film frame, (H, W, 3) 8 bits; depths are bright near and dark far."""
    if frame.dtype == np.uint16:
        frame = np.where(frame > 0, 255.0 - frame / DEEPEST * 215.0, 0.0).round()
    flat = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
    return flat.astype(np.uint8)


def write_path(
    forward: Forward,
    path: Path3D,
    folder: Path,
    names: Mapping[str, str],
    painter: FramePainter,
    chunk_pixels: int,
    on_frame: Callable[[int, dict[str, FrameImage]], None] = lambda number, images: None,
    supersample: int = 1,
) -> list[Path]:
    """Renders a path and writes its frames, each file atomically.

    Args:
        forward: The network, see `idr.rendering.render_image`.
        path: The cameras.
        folder: Folder of the files; created if missing.
        names: File name by output, with a field for the frame number, such as ``eval_{:03d}.png``.
        painter: Makes the images.
        chunk_pixels: Pixels rendered at once.
        on_frame: Called after each frame with its number and images.
        supersample: Rays along each side of a pixel at edges, see `idr.rendering.render_antialiased`.

    Returns:
        The files written.

    Raises:
        OutputError: A file cannot be written.
    """
    written = []
    cameras = zip(path.intrinsics, path.poses, strict=True)
    for number, (intrinsics, pose) in enumerate(with_progress(cameras, "frames", len(path.poses))):
        view = torch.as_tensor(pose, dtype=torch.float32).to(intrinsics.device)
        image = render_antialiased(forward, intrinsics, view, path.img_res, supersample, chunk_pixels)
        images = {kind: painter.image_of(kind, image, pose) for kind in names}
        for kind, frame in images.items():
            written.append(folder / names[kind].format(number))
            write_atomic(written[-1], partial(iio.imwrite, image=frame, extension=".png"))
        on_frame(number, images)
    return written
