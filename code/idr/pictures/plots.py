"""Plots during training: renderings, depth maps and the surface.

H, W image height and width, V plotted views, N hits of a view.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from idr.files import write_text_atomic
from idr.geometry.cameras import pose_matrix
from idr.meshing import extract_mesh, uniform_grid, write_mesh
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Field
from idr.pictures.space import camera_traces, mesh_trace
from idr.rendering import DEFAULT_CHUNK_PIXELS, Forward, RenderedImage, render_image, write_image

log = logging.getLogger(__name__)

MAX_HITS = 2048
"""Most hits drawn per view (published)."""
AXIS_RANGE = (-3.0, 3.0)
"""Range of the axes, unit-sphere units (published)."""
START_EYE = {"x": 1.0, "y": 1.0, "z": 0.65}
"""Initial eye position in half sides of the axes' cube: close, since the object fills a third of it."""
COLORS = ("#2266cc", "#d9822b", "#3a9d5d", "#b34a9b")
"""Colors of the cameras, in turn."""
PLOTLY_FILE = "plotly.min.js"
"""plotly's script, written once next to the pages so that they open without network."""


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

    LARGEST: ClassVar[dict[str, int]] = {"plot_nimgs": 10_000, "resolution": 4096}

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


@dataclass(frozen=True)
class CameraView:
    """A camera and the hits of its rays.

    Attributes:
        pose: (4, 4) camera-to-world, unit-sphere coordinates.
        hits: (N, 3) points on the surface, N at most 2048.
        sdf: (N,) the network's values there.
    """

    pose: NDArray[np.float64]
    hits: NDArray[np.float64]
    sdf: NDArray[np.float64]

    @classmethod
    def of(cls, pose: Tensor, image: RenderedImage, generator: torch.Generator) -> CameraView:
        """Makes one of a rendered view; the pose is (4, 4) or (7,), the generator draws hits on the CPU."""
        matrix = pose_matrix(pose[None].detach().cpu())[0].double().numpy()
        hits, sdf = image.points[image.hit], image.sdf[image.hit]
        chosen = torch.randperm(len(hits), generator=generator)[:MAX_HITS]
        return cls(matrix, hits[chosen].double().numpy(), sdf[chosen].double().numpy())


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

    The first shows renderings above photographs, the views side by side; the last two are in unit-sphere
    coordinates, and the folder also gets ``plotly.min.js``, once. Without a surface, they are left out and
    the log says so.

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
    from plotly.io import to_html  # half a second to import: only where a page is drawn
    from plotly.offline import get_plotlyjs

    cameras = [CameraView.of(view.pose, image, generator) for view, image in zip(views, images, strict=True)]
    write_mesh(mesh, folder / f"surface_{epoch}.ply")
    if not (folder / PLOTLY_FILE).is_file():
        write_text_atomic(folder / PLOTLY_FILE, get_plotlyjs())
    figure = surface_figure(mesh, cameras, f"epoch {epoch}")
    page = to_html(figure, include_plotlyjs="directory", full_html=True, default_height="96vh")
    write_text_atomic(folder / f"surface_{epoch}.html", page)
    return True


def depth_panels(images: Sequence[RenderedImage], max_depth: float) -> Tensor:
    """Returns depth along the optical axis as gray levels, (H, V W), each of V views scaled to its own range.

    The range is [0, 1], 0 at the nearest depth; a view of constant depth is 0. Pixels that hit nothing have
    the depth `max_depth`.
    """
    from torchvision.utils import make_grid  # only where a picture is drawn, as plotly

    depths = torch.stack([torch.where(image.hit, image.depth, max_depth) for image in images])[:, None]
    return make_grid(depths, nrow=len(images), padding=0, normalize=True, scale_each=True)[0]


def surface_figure(mesh: trimesh.Trimesh, cameras: Sequence[CameraView], title: str) -> Any:
    """Returns a plotly figure of a surface with cameras and ray hits, axes of equal scale from -3 to 3."""
    import plotly.graph_objects as go

    traces = [mesh_trace(mesh, "surface")]
    for number, camera in enumerate(cameras):
        name = f"camera {number}"
        traces += camera_traces(camera.pose[None], [name], name, COLORS[number % len(COLORS)])
        x, y, z = camera.hits.astype(np.float32).T
        traces.append(
            go.Scatter3d(
                x=x, y=y, z=z, mode="markers", name=f"hits of {name}", marker={"size": 1.5},
                text=[f"sdf {value:.2e}" for value in camera.sdf], hoverinfo="text",
            )
        )  # fmt: skip
    axis = {"range": list(AXIS_RANGE), "autorange": False}
    scene = {"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "cube", "camera": {"eye": START_EYE}}
    layout = {"title": {"text": title}, "scene": scene, "margin": {"l": 0, "r": 0, "b": 0, "t": 40}}
    layout["legend"] = {"itemsizing": "constant"}
    return go.Figure(data=traces, layout=layout)
