"""HTML pages that open without network: templates, tables and images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as escape_markup

from idr.errors import printable
from idr.replacing import PAGE_MARK

TEMPLATES = Path(__file__).parent / "templates"


def escape(text: str) -> str:
    """Returns HTML that shows a text as it is, whatever a name in it holds."""
    return str(escape_markup(printable(text, lines=True)))


@cache
def _environment() -> Environment:
    """Templates in which every text that is no `Markup` is escaped as by `escape`."""

    def finalize(value: Any) -> Any:
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return printable(value, lines=True) if plain else value

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=finalize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """Returns a page from one of the templates; texts among the values are escaped."""
    return _environment().get_template(template).render(mark=Markup(PAGE_MARK), **values) + "\n"


def render_part(macro: str, *values: Any) -> Markup:
    """Returns a part of a page by a macro of ``parts.html``; texts among the values are escaped."""
    return Markup(getattr(_environment().get_template("parts.html").module, macro)(*values))


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

    def as_html(self) -> Markup:
        """Returns the table as HTML."""
        return render_part("table", self.header, self.rows)


def image_address(image: Path | bytes) -> str:
    """Returns the ``data:`` address of a PNG or JPEG file or of the content of one."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    kind = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class CaptionedImage:
    """An image embedded in the page, a PNG or JPEG file or the content of one, with a caption."""

    image: Path | bytes
    caption: str

    def as_html(self) -> Markup:
        """Returns the image as HTML."""
        return render_part("image", image_address(self.image), self.caption)


class Page:
    """Collects the body of a page."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def add_html(self, text: str) -> None:
        """Appends HTML."""
        self.parts.append(Markup(text))

    def as_html(self, title: str) -> str:
        """Returns the whole page; the title is a text."""
        return render("base.html", title=title, parts=self.parts)
