"""One page that compares reconstructions: a table, photographs beside renderings, and surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trimesh

from idr.files import write_text_atomic
from idr.pictures.page import CaptionedImage, Page, Table
from idr.pictures.space import mesh_trace, space_figure


def write_overview(
    path: Path,
    title: str,
    table: Table,
    images: Sequence[Sequence[CaptionedImage]],
    surfaces: dict[str, trimesh.Trimesh],
) -> None:
    """Writes the page.

    Args:
        path: The file.
        title: Its heading.
        table: The scores.
        images: Rows of images.
        surfaces: Meshes by caption, all in one frame.

    Raises:
        OutputError: The file cannot be written.
    """
    page = Page()
    page.add_html(f"{table.as_html()}<h2>Photographs and renderings</h2>")
    for row in images:
        page.add_html(f"<div>{''.join(image.as_html() for image in row)}</div>")
    for caption, mesh in surfaces.items():
        page.add_figure(caption, space_figure([mesh_trace(mesh)]))
    write_text_atomic(path, page.as_html(title))
