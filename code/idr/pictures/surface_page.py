"""The surface as a mesh file and as a page to turn about in a browser, cameras and rays' hits beside it.

N hits of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from idr.files import write_text_atomic
from idr.geometry.cameras import pose_matrix
from idr.meshing import extract_mesh, uniform_grid, write_mesh
from idr.meshing.sampling import Field
from idr.rendering import RenderedImage

MAX_HITS = 2048
"""Hits drawn for one view (published)."""

AXIS_RANGE = (-3.0, 3.0)
"""Range of the page's axes, unit-sphere units (published)."""

START_EYE = {"x": 1.0, "y": 1.0, "z": 0.65}
"""Where the page is seen from at first, in halves of the axes' cube: near, since the object fills a third."""

VIEW_LENGTH = 0.6
"""Length of the line that shows where a camera looks, unit-sphere units."""

PLOTLY_FILE = "plotly.min.js"
"""The drawing library, written once beside the pages so that they open without network."""


@dataclass(frozen=True)
class CameraView:
    """A camera and what its rays hit.

    Attributes:
        center: (3,) the camera.
        direction: (3,) unit vector along its optical axis.
        hits: (N, 3) points, N at most 2048.
        sdf: (N,) the network's value there.
    """

    center: NDArray[np.float64]
    direction: NDArray[np.float64]
    hits: NDArray[np.float64]
    sdf: NDArray[np.float64]

    @classmethod
    def of(cls, pose: Tensor, image: RenderedImage, generator: torch.Generator) -> CameraView:
        """Collects a rendered view.

        Args:
            pose: (4, 4) camera-to-world or (7,), unit-sphere coordinates.
            image: The rendering.
            generator: Source of the draw where there are more than 2048 hits, on the CPU.
        """
        matrix = pose_matrix(pose[None].detach().cpu())[0].double().numpy()
        hits, sdf = image.points[image.hit], image.sdf[image.hit]
        chosen = torch.randperm(len(hits), generator=generator)[:MAX_HITS]
        return cls(matrix[:3, 3], matrix[:3, 2], hits[chosen].double().numpy(), sdf[chosen].double().numpy())


def mesh_surface(
    sdf: Field, bound: float, resolution: int, chunk_points: int, device: torch.device
) -> trimesh.Trimesh | None:
    """Meshes the zero set over the bounding cube, or returns None where there is none."""
    return extract_mesh(sdf, uniform_grid(bound, resolution), chunk_points, device)


def write_surface_page(
    mesh: trimesh.Trimesh, cameras: Sequence[CameraView], folder: Path, epoch: int
) -> None:
    """Writes ``surface_<e>.ply`` and ``surface_<e>.html``, both in unit-sphere coordinates.

    Args:
        mesh: The surface.
        cameras: The plotted views.
        folder: The run's ``plots/``; ``plotly.min.js`` is put there once.
        epoch: e.

    Raises:
        OutputError: A file cannot be written.
    """
    from plotly.io import to_html  # half a second to import: only where a page is drawn
    from plotly.offline import get_plotlyjs

    write_mesh(mesh, folder / f"surface_{epoch}.ply")
    if not (folder / PLOTLY_FILE).is_file():
        write_text_atomic(folder / PLOTLY_FILE, get_plotlyjs())
    figure = surface_figure(mesh, cameras, f"epoch {epoch}")
    page = to_html(figure, include_plotlyjs="directory", full_html=True, default_height="96vh")
    write_text_atomic(folder / f"surface_{epoch}.html", page)


def surface_figure(mesh: trimesh.Trimesh, cameras: Sequence[CameraView], title: str) -> Any:
    """Draws a surface with cameras, their viewing directions and their rays' hits.

    Args:
        mesh: The surface, unit-sphere coordinates.
        cameras: The views.
        title: Heading of the page.

    Returns:
        A plotly figure with axes of equal scale from -3 to 3.
    """
    import plotly.graph_objects as go

    # float32 halves the page; six digits are more than a screen shows.
    x, y, z = np.asarray(mesh.vertices, dtype=np.float32).T
    i, j, k = np.asarray(mesh.faces, dtype=np.int32).T
    lighting = {"ambient": 0.35, "diffuse": 0.8, "specular": 0.2, "roughness": 0.6}
    traces: list[Any] = [
        go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, color="#b8c4d6", lighting=lighting, name="surface",
                  hoverinfo="name", showlegend=True)
    ]  # fmt: skip
    for number, camera in enumerate(cameras):
        traces += _camera_traces(go, camera, number)
    axis = {"range": list(AXIS_RANGE), "autorange": False}
    scene = {"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "cube", "camera": {"eye": START_EYE}}
    layout = {"title": {"text": title}, "scene": scene, "margin": {"l": 0, "r": 0, "b": 0, "t": 40}}
    layout["legend"] = {"itemsizing": "constant"}
    return go.Figure(data=traces, layout=layout)


def _camera_traces(go: Any, camera: CameraView, number: int) -> list[Any]:
    """Draws one camera, its direction and its hits; hovering shows the SDF."""
    tip = camera.center + VIEW_LENGTH * camera.direction
    line = np.stack((camera.center, tip)).astype(np.float32)
    hits = camera.hits.astype(np.float32)
    values = [f"sdf {value:.2e}" for value in camera.sdf]
    return [
        go.Scatter3d(
            **dict(zip("xyz", line.T, strict=True)),
            mode="lines+markers",
            name=f"camera {number}",
            line={"width": 5},
            marker={"size": [6, 0]},
        ),
        go.Scatter3d(
            **dict(zip("xyz", hits.T, strict=True)),
            mode="markers",
            name=f"hits of camera {number}",
            marker={"size": 1.5},
            text=values,
            hoverinfo="text",
        ),
    ]
