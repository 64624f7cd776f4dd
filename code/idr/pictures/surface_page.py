"""The surface during training as a mesh file and as an interactive page with cameras and ray hits.

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
from idr.meshing import write_mesh
from idr.pictures.space import camera_traces, mesh_trace
from idr.rendering import RenderedImage

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


def write_surface_page(
    mesh: trimesh.Trimesh, cameras: Sequence[CameraView], folder: Path, epoch: int
) -> None:
    """Writes ``surface_<e>.ply`` and ``surface_<e>.html`` of epoch e, both in unit-sphere coordinates.

    The folder also gets ``plotly.min.js``, once.

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
