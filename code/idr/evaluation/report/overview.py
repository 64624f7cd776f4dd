"""A page that shows reconstructions at a glance and opens without network: one file, everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trimesh

from idr.files import write_text_atomic
from idr.pictures.page import Page, Picture, Table
from idr.pictures.space import mesh_trace, space_figure


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
    page = Page()
    page.add_html(f"{table.as_html()}<h2>Photographs and renderings</h2>")
    for row in pictures:
        page.add_html(f"<div>{''.join(picture.as_html() for picture in row)}</div>")
    for caption, mesh in surfaces.items():
        page.add_figure(caption, space_figure([mesh_trace(mesh)]))
    write_text_atomic(path, page.as_html(title))
