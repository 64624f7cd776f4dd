"""Pictures of a training run: renderings and depth beside the photographs.

H, W image height and width, V views plotted. The surface's pictures are in `plots_surface`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Field
from idr.pictures.surface_page import CameraView, mesh_surface, write_surface_page
from idr.rendering import DEFAULT_CHUNK_PIXELS, Forward, RenderedImage, render_image, write_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlotConfig:
    """Keys of the block ``plot``.

    Attributes:
        plot_nimgs: V, how many views are drawn at random and plotted side by side.
        max_depth: Depth shown where nothing is hit, unit-sphere units.
        resolution: Samples along each side of the surface's grid.
        chunk_pixels: Pixels rendered at once; bounds memory, here and in evaluation.
        chunk_points: Points meshed at once; bounds memory, here and in evaluation.
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
    """Draws the views to plot, without replacement.

    Args:
        num_images: Views of the scene.
        config: Its ``plot_nimgs`` views are drawn, or all if there are fewer.
        generator: Source of the draw.

    Returns:
        Indices of the views.
    """
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

    Without a surface the pictures are written, the surface's two files are not, and the log says so.

    Args:
        folder: The run's ``plots/``.
        epoch: e.
        forward: The model in evaluation mode, see `render_image`.
        sdf: (N, 3) points -> (N,) signed distances.
        views: V views of equal size, from `choose_views`.
        config: The block ``plot``.
        bound: Radius of the object's bounding sphere.
        generator: Source of the draw of plotted hits, on the CPU.

    Returns:
        False where there was no surface.

    Raises:
        OutputError: A file cannot be written.
    """
    images = [
        render_image(forward, v.intrinsics, v.pose, _size(v), v.object_mask, config.chunk_pixels)
        for v in views
    ]
    write_image(renderings_above_photos(images, views), folder / f"rendering_{epoch}.png")
    write_image(depth_panels(images, config.max_depth), folder / f"depth_{epoch}.png")
    mesh = mesh_surface(sdf, bound, config.resolution, config.chunk_points, views[0].intrinsics.device)
    if mesh is None:
        log.info("epoch %d: no surface yet; surface_%d.ply and .html are left out", epoch, epoch)
        return False
    cameras = [CameraView.of(view.pose, image, generator) for view, image in zip(views, images, strict=True)]
    write_surface_page(mesh, cameras, folder, epoch)
    return True


def _size(view: PlotView) -> tuple[int, int]:
    """Height and width of a view."""
    return int(view.photo.shape[0]), int(view.photo.shape[1])


def renderings_above_photos(images: Sequence[RenderedImage], views: Sequence[PlotView]) -> Tensor:
    """Puts renderings above their photographs, the views side by side.

    Returns:
        (2 H, V W, 3) colors in [0, 1].
    """
    columns = [torch.cat((i.rgb01, v.photo.cpu().float())) for i, v in zip(images, views, strict=True)]
    return torch.cat(columns, dim=1)


def depth_panels(images: Sequence[RenderedImage], max_depth: float) -> Tensor:
    """Draws depth along the camera's axis as gray, each view over its own range.

    Args:
        images: V rendered views.
        max_depth: Depth drawn where nothing is hit.

    Returns:
        (H, V W) in [0, 1], the nearest depth black; a view of one depth throughout is black.
    """
    panels = []
    for image in images:
        depth = torch.where(image.hit, image.depth, max_depth)
        low, high = depth.min(), depth.max()
        panels.append((depth - low) / (high - low).clamp_min(1e-12))
    return torch.cat(panels, dim=1)
