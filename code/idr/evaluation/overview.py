"""A page that shows a reconstruction at a glance and opens without network: one file, everything inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from idr.files import write_text_atomic

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #ddd; }
td { text-align: right; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
figure { display: inline-block; margin: .4rem; text-align: center; }
figcaption { color: #666; font-size: .85rem; }
figure img { width: 20rem; image-rendering: pixelated; border: 1px solid #eee; }
"""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        header: Titles of the columns.
        rows: The rows, each as long as the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Returns the table in columns of equal width, for a terminal."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.header))]

        def text(line: Sequence[str]) -> str:
            first, *others = line
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            return "  ".join([first.ljust(widths[0]), *cells])

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([text(self.header), rule, *(text(row) for row in self.rows)])

    def as_html(self) -> str:
        """Returns the table as HTML."""
        cells = lambda tag, line: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)  # noqa: E731
        rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        return f"<table><tr>{cells('th', self.header)}</tr>{rows}</table>"


@dataclass(frozen=True)
class Picture:
    """A picture with a caption.

    Attributes:
        png: A PNG file, or the content of one; it goes into the page.
        caption: Text below it.
    """

    png: Path | bytes
    caption: str

    def as_html(self) -> str:
        """Returns the picture as HTML."""
        content = self.png if isinstance(self.png, bytes) else self.png.read_bytes()
        data = base64.b64encode(content).decode("ascii")
        caption = html.escape(self.caption)
        image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def write_overview(
    path: Path,
    title: str,
    table: Table,
    pictures: Sequence[Sequence[Picture]],
    surfaces: dict[str, trimesh.Trimesh],
) -> None:
    """Writes the page.

    Args:
        path: The file.
        title: Its heading.
        table: The numbers.
        pictures: Rows of pictures.
        surfaces: Meshes to turn about, by caption; all in one frame.

    Raises:
        OutputError: It cannot be written.
    """
    shown = "".join(f"<div>{''.join(picture.as_html() for picture in row)}</div>" for row in pictures)
    plots = "".join(
        f"<h2>{html.escape(caption)}</h2>{_surface_html(mesh, number == 0)}"
        for number, (caption, mesh) in enumerate(surfaces.items())
    )
    body = f"{table.as_html()}<h2>Photographs and renderings</h2>{shown}{plots}"
    write_text_atomic(path, page_html(title, body))


def page_html(title: str, body: str) -> str:
    """Returns a whole page in the house's look.

    Args:
        title: Its heading, a text.
        body: What follows the heading, HTML.
    """
    heading = html.escape(title)
    head = f'<meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
    body = f"<h1>{heading}</h1>{body}"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _surface_html(mesh: trimesh.Trimesh, with_library: bool) -> str:
    """Returns a mesh as a figure to turn about; the drawing library is put in once a page."""
    return space_figure([mesh_trace(mesh)]).to_html(full_html=False, include_plotlyjs=with_library)


def mesh_trace(mesh: trimesh.Trimesh) -> Any:
    """Returns a mesh as a plotly trace."""
    import plotly.graph_objects as go

    x, y, z = np.asarray(mesh.vertices, dtype=np.float32).T
    i, j, k = np.asarray(mesh.faces, dtype=np.int32).T
    lighting = {"ambient": 0.4, "diffuse": 0.8, "specular": 0.3, "roughness": 0.5}
    return go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, color="#c9b79c", lighting=lighting, hoverinfo="skip")


def space_figure(traces: Sequence[Any]) -> Any:
    """Returns a plotly figure of traces in space, axes of equal scale and not drawn.

    The legend stands at the left: plotly's tool bar covers the right upper corner.
    """
    import plotly.graph_objects as go

    axis = {"visible": False}
    scene = {"aspectmode": "data", "xaxis": axis, "yaxis": axis, "zaxis": axis}
    margin = {"l": 0, "r": 0, "b": 0, "t": 0}
    legend = {"x": 0.01, "xanchor": "left", "y": 0.99, "yanchor": "top", "bgcolor": "rgba(255,255,255,0.7)"}
    return go.Figure(list(traces), {"scene": scene, "height": 520, "margin": margin, "legend": legend})
