"""HTML pages that open without network: style, tables, images and figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idr.errors import printable
from idr.replacing import PAGE_MARK

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


def escape(text: str) -> str:
    """Returns HTML that shows a text as it is, whatever a name in it holds."""
    return html.escape(printable(text, lines=True))


@dataclass(frozen=True)
class Table:
    """A table of texts: column titles, and rows as long as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Returns the table in aligned columns for a terminal."""
        lines = [[printable(cell) for cell in line] for line in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        left, *right = widths
        row = "  ".join([f"{{:<{left}}}", *(f"{{:>{width}}}" for width in right)])  # such as {:<9}  {:>4}
        return "\n".join(row.format(*line) for line in lines)

    def as_html(self) -> str:
        """Returns the table as HTML."""
        cells = lambda tag, line: "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)  # noqa: E731
        rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        return f"<table><tr>{cells('th', self.header)}</tr>{rows}</table>"


@dataclass(frozen=True)
class CaptionedImage:
    """An image embedded in the page, a PNG or JPEG file or the content of one, with a caption."""

    image: Path | bytes
    caption: str

    def as_html(self) -> str:
        """Returns the image as HTML."""
        content = self.image if isinstance(self.image, bytes) else self.image.read_bytes()
        kind = "jpeg" if content.startswith(b"\xff\xd8") else "png"
        data = base64.b64encode(content).decode("ascii")
        caption = escape(self.caption)
        image = f'<img src="data:image/{kind};base64,{data}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


class Page:
    """Collects the body of a page. The first figure embeds plotly's script."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._figures = 0

    def add_html(self, text: str) -> None:
        """Appends HTML."""
        self.parts.append(text)

    def add_figure(self, title: str, figure: Any | None, otherwise: str = "") -> None:
        """Appends a plotly figure, or the text `otherwise` in place of None, under a heading."""
        self.add_html(f"<h2>{escape(title)}</h2>")
        if figure is None:
            self.add_html(f"<p>{escape(otherwise)}</p>")
            return
        # plotly's default id is random; a fixed one makes pages reproducible.
        name = f"figure-{self._figures}"
        self.add_html(figure.to_html(full_html=False, include_plotlyjs=self._figures == 0, div_id=name))
        self._figures += 1

    def as_html(self, title: str) -> str:
        """Returns the whole page; the title is a text."""
        heading = escape(title)
        head = f'<meta charset="utf-8">{PAGE_MARK}<title>{heading}</title><style>{STYLE}</style>'
        body = f"<h1>{heading}</h1>{''.join(self.parts)}"
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
