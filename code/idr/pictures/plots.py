"""Plots during training: renderings, depth maps and the surface.

H, W image height and width, V plotted views. `surface_page` writes the surface.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idr.meshing import extract_mesh, uniform_grid
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Field
from idr.pictures.surface_page import CameraView, write_surface_page
from idr.rendering import DEFAULT_CHUNK_PIXELS, Forward, RenderedImage, render_image, write_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlotConfig:
    """Keys of the block ``plot``.

    Attributes:
        plot_nimgs: V, number of random views plotted side by side.
        max_depth: Depth shown where no surface is hit, unit-sphere units.
        resolution: Grid samples along each side for the surface.
        chunk_pixels: Pixels rendered at once in plots and evaluation; bounds memory.
        chunk_points: Points meshed at once in plots and evaluation; bounds memory.
    """

    plot_nimgs: int = 1
    max_depth: float = 3.0
    resolution: int = 100
    chunk_pixels: int = DEFAULT_CHUNK_PIXELS
    chunk_points: int = DEFAULT_CHUNK_POINTS

    def __post_init__(self) -> None:
        for name, least in (("plot_nimgs", 1), ("resolution", 2), ("chunk_pixels", 1), ("chunk_points", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least {least}")
        if not self.max_depth > 0:
            raise ValueError(f"max_depth = {self.max_depth}: expected a positive depth")


@dataclass(frozen=True)
class PlotView:
    """A view to plot.

    Attributes:
        intrinsics: (4, 4) K, on the network's device.
        pose: (4, 4) camera-to-world or (7,) quaternion and center, unit-sphere coordinates.
        photo: (H, W, 3) colors in [0, 1].
        object_mask: (H * W,) bool.
    """

    intrinsics: Tensor
    pose: Tensor
    photo: Tensor
    object_mask: Tensor


def choose_views(num_images: int, config: PlotConfig, generator: torch.Generator) -> list[int]:
    """Returns the indices of up to ``config.plot_nimgs`` of `num_images` views, drawn without replacement."""
    return torch.randperm(num_images, generator=generator)[: config.plot_nimgs].tolist()


def write_plots(
    folder: Path,
    epoch: int,
    forward: Forward,
    sdf: Field,
    views: Sequence[PlotView],
    config: PlotConfig,
    bound: float,
    generator: torch.Generator,
) -> bool:
    """Writes ``rendering_<e>.png``, ``depth_<e>.png``, ``surface_<e>.ply`` and ``surface_<e>.html``.

    The first shows renderings above photographs, the views side by side. Without a surface, the two surface
    files are left out and the log says so.

    Args:
        folder: The run's ``plots/``.
        epoch: e.
        forward: The model in evaluation mode, see `render_image`.
        sdf: (N, 3) points -> (N,) signed distances.
        views: V views of equal size.
        config: The block ``plot``.
        bound: Radius of the object's bounding sphere.
        generator: Draws the plotted hits, on the CPU.

    Returns:
        False if there is no surface.

    Raises:
        OutputError: A file cannot be written.
    """
    height, width, _ = views[0].photo.shape
    images = [
        render_image(forward, v.intrinsics, v.pose, (height, width), v.object_mask, config.chunk_pixels)
        for v in views
    ]
    columns = [torch.cat((i.rgb01, v.photo.cpu().float())) for i, v in zip(images, views, strict=True)]
    write_image(torch.cat(columns, dim=1), folder / f"rendering_{epoch}.png")
    write_image(depth_panels(images, config.max_depth), folder / f"depth_{epoch}.png")
    grid = uniform_grid(bound, config.resolution)
    mesh = extract_mesh(sdf, grid, config.chunk_points, views[0].intrinsics.device)
    if mesh is None:
        log.info("epoch %d: no surface yet; surface_%d.ply and .html are left out", epoch, epoch)
        return False
    cameras = [CameraView.of(view.pose, image, generator) for view, image in zip(views, images, strict=True)]
    write_surface_page(mesh, cameras, folder, epoch)
    return True


def depth_panels(images: Sequence[RenderedImage], max_depth: float) -> Tensor:
    """Returns depth along the optical axis as gray levels, each of V views scaled to its own range.

    Returns:
        (H, V W) in [0, 1], 0 at the nearest depth; a view of constant depth is 0. Pixels that hit nothing
        have the depth `max_depth`.
    """
    panels = []
    for image in images:
        depth = torch.where(image.hit, image.depth, max_depth)
        low, high = depth.min(), depth.max()
        panels.append((depth - low) / (high - low).clamp_min(1e-12))
    return torch.cat(panels, dim=1)
