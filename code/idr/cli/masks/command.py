"""``masks.py``: mends the masks of a scene by labels, on the command line or on a page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import make_parser, run_command, say
from idr.errors import InputError

if TYPE_CHECKING:
    from idr.importers.masks.editing import MaskEditor, Stroke

DESCRIPTION = (
    "Mends the masks of an imported scene. Pixels that you label as object or background, in a few views, "
    "are fixed, and all masks are computed again. Without labels on the command line, a page opens at which "
    "you draw them. Labels stay in mask_hints/ of the scene, the first masks in mask_before/."
)
EXAMPLES = """\
  %(prog)s ../data/mine/scan0
  %(prog)s ../data/mine/scan0 --object 3:120,80 --background 3:10,200,90,260
  %(prog)s ../data/mine/scan0 --within 5:40,30,300,250 --keep 0,1,2"""
_NUMBER = r"-?\d+(?:\.\d+)?"
_LABEL = re.compile(rf"(.+):({_NUMBER},{_NUMBER}(?:[, ]{_NUMBER},{_NUMBER})*)", re.DOTALL)
FORMS = "VIEW:x,y (a spot), VIEW:x0,y0,x1,y1 (a box) or 'VIEW:x0,y0 x1,y1 ...' (a stroke)"


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "masks")
    add = parser.add_argument
    add("scene", type=Path, metavar="SCENE", help="folder of a scan: image/, mask/, cameras.npz")
    several = "may be given several times"
    helps = {
        "object": f"pixels of the object: {FORMS}; {several}",
        "background": f"pixels of the background, likewise; {several}",
        "erase": f"labels to remove, likewise; {several}",
        "within": f"VIEW:x0,y0,x1,y1, a box that contains the object; {several}",
    }
    for name, text in helps.items():
        add(f"--{name}", action="append", default=[], metavar="LABEL", help=text)
    keep = (
        "views whose masks are right: 0,3,7 or all or none; default: those that were given to the import and "
        "have no label"
    )
    add("--keep", metavar="VIEWS", help=keep)
    brush = "width of spots and strokes, pixels; default: a fortieth of the longer side"
    add("--brush", type=float, metavar="PIXELS", help=brush)
    add("--host", default="127.0.0.1", help="address of the page; 0.0.0.0 admits everybody on the network")
    add("--port", type=int, default=8090, help="port of the page; 0 for any free one")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _mend)


def _mend(arguments: argparse.Namespace) -> None:
    from idr.importers.masks.editing import LARGEST_BRUSH

    if arguments.brush is not None and not 1 <= arguments.brush <= LARGEST_BRUSH:
        raise InputError(f"--brush {arguments.brush:g}: expected 1 to {LARGEST_BRUSH} pixels")
    labels = [(name, text) for name in ("object", "background", "erase", "within")
              for text in getattr(arguments, name)]  # fmt: skip
    parsed = [parse_label(name, text, arguments.brush) for name, text in labels]
    on_page = not labels and arguments.keep is None
    if on_page:
        from idr.viewer.server import free_port

        arguments.port = free_port(arguments.host, arguments.port)

    from idr.importers.masks.editing import MaskEditor
    from idr.replacing import check_writable

    folder = arguments.scene.expanduser()
    editor = MaskEditor(folder)
    check_writable(folder / "mask_hints" / "0.png", folder / "mask" / "0.png")
    if on_page:
        _serve(editor, arguments.host, arguments.port)
        return
    numbered = [(editor.view_of(view), stroke) for view, stroke in parsed]
    keeps = None if arguments.keep is None else _kept_views(editor, arguments.keep)
    for k, stroke in numbered:
        editor.hints[k], editor.keeps[k] = stroke.drawn(editor.hints[k]), False
    if keeps is not None:
        editor.keeps = [k in keeps for k in range(len(editor))]
    _update(editor, sorted({k for k, _ in numbered}))


def parse_label(name: str, text: str, brush: float | None) -> tuple[str, Stroke]:
    """Reads the view and the stroke of a flag such as ``--object``; a `brush` of None is the default width.

    Raises:
        InputError: It has another form.
    """
    from idr.importers.masks.editing import Stroke

    found = _LABEL.fullmatch(text.strip())
    words = found[2].split() if found else []
    numbers = [[float(number) for number in word.split(",")] for word in words]
    is_box = len(numbers) == 1 and len(numbers[0]) == 4
    if not (is_box or name != "within" and numbers and all(len(pair) == 2 for pair in numbers)):
        expected = "VIEW:x0,y0,x1,y1" if name == "within" else FORMS
        raise InputError(
            f"--{name} {text}: expected {expected}, pixels from the upper left corner, such as "
            f"--{name} 3:120,80{',200,160' * (name == 'within')}"
        )
    assert found is not None
    flat = [number for pair in numbers for number in pair]
    points = tuple(zip(flat[::2], flat[1::2], strict=True))
    return found[1], Stroke(name, "box" if is_box else "line", points, brush)


def _kept_views(editor: MaskEditor, text: str) -> set[int]:
    if text in ("all", "none"):
        return set(range(len(editor))) if text == "all" else set()
    return {editor.view_of(name.strip()) for name in text.split(",")}


def _update(editor: MaskEditor, labelled: list[int]) -> None:
    """Computes and saves the masks, and says how well they agree."""
    before = editor.agreement
    kept = sum(editor.keeps)
    views = f"{len(labelled)} view{'s' * (len(labelled) != 1)}"
    say(f"computing {len(editor) - kept} masks from labels in {views}; {kept} are kept")
    editor.update()
    for k in labelled:  # only those that can be used
        editor.label(k, editor.hints[k])
    editor.write_keeps()
    worst = sorted({*labelled, int(editor.agreement.argmin())})
    for k in worst:
        say(f"{editor.names[k]}: IoU with the other views' hull {before[k]:.3f} -> {editor.agreement[k]:.3f}")
    say(f"all views: {before.mean():.3f} -> {editor.agreement.mean():.3f}")
    for line in editor.save():
        say(line)
    say("train with the new masks: idr photos does when it is called again")


def _serve(editor: MaskEditor, host: str, port: int) -> None:
    from idr.cli.masks.server import MaskServer

    server = MaskServer(editor, host, port)
    name = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    try:
        say(f"masks: http://{name}:{server.port}/{server.token}/ (Ctrl-C ends it)")
        server.serve()
    finally:
        server.close()
        if editor.unsaved:
            say("masks that were not saved are lost; the labels are kept: the same command goes on from them")


if __name__ == "__main__":
    raise SystemExit(main())
