"""Pages show names as texts, whatever they hold."""

from __future__ import annotations

from html.parser import HTMLParser

from idr.pictures.page import CaptionedImage, Page, Table

NAMES = (
    "</title><script>alert(1)</script>", "<img src=x onerror='x'>", '" onload="x', "&lt;b&gt;",
    "caf\udce9\x1b[1m",
)  # fmt: skip
SHOWN = (*NAMES[:-1], "caf\\udce9\\x1b[1m")


class Reader(HTMLParser):
    """Collects elements, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.alternatives: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.alternatives += [value for name, value in attributes if name == "alt"]

    def handle_data(self, text):
        self.texts.append(text)


def test_hostile_names():
    page = Page()
    page.add_html(Table(NAMES, [NAMES]).as_html())
    for name in NAMES:
        page.add_html(CaptionedImage(b"png", name).as_html())
    for name, shown in zip(NAMES, SHOWN, strict=True):
        text = page.as_html(name)
        text.encode("utf-8")
        reader = Reader(text)
        assert "script" not in reader.tags and reader.tags.count("img") == len(NAMES)
        assert reader.attributes == {"charset", "lang", "src", "alt", "name", "content", "class"}
        assert reader.texts.count(shown) >= 5  # title, heading, cells, caption
        assert reader.alternatives == list(SHOWN)
