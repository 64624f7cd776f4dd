"""Serves the page at which a user mends masks.

Its address holds a secret token, so other users of this machine and other sites cannot use it. The server's
threads answer the page; the long work runs in the thread that called `serve`.
"""

from __future__ import annotations

import http
import json
import math
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from idr.errors import USER_ERRORS, InputError

if TYPE_CHECKING:
    import numpy as np

    from idr.importers.masks.editing import MaskEditor, Stroke

POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing is fetched from or sent to another place."""
LARGEST_BODY = 2**22
"""Bytes of a request: thousands of strokes."""
THUMBNAIL, QUALITY = 320, 88
"""Pixels of the longer side of a small picture, and quality of a JPEG."""
OUTLINE = (255, 40, 200)
"""Color of a mask's outline, RGB."""
LABEL_COLORS = {1: (60, 210, 90, 150), 2: (235, 60, 50, 150)}
"""RGBA of labelled pixels: object, background."""
Answer = tuple[bytes, str]
"""Content and its type."""


class MaskServer:
    """The page of one scene, served until it is ended.

    It listens at the address `host` and at a free port; `token` begins the path of its addresses.
    """

    def __init__(self, editor: MaskEditor, host: str, port: int) -> None:
        from idr.viewer.guard import Guard

        self.editor, self.guard, self.token = editor, Guard(host), secrets.token_urlsafe(18)
        self.strokes: list[list[Stroke]] = [[] for _ in range(len(editor))]
        self.first_hints, self.first_keeps = list(editor.hints), list(editor.keeps)
        self.lock = threading.Lock()
        self.version, self.working, self.message, self.began = 0, "", "", 0.0
        self._jobs: queue.Queue[Callable[[], list[str]] | None] = queue.Queue()
        handler = type("Handler", (_Handler,), {"page": self})
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = type("Server", (ThreadingHTTPServer,), {"address_family": family, "daemon_threads": True})
        self._server: ThreadingHTTPServer = server((host, port), handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def serve(self) -> None:
        """Does the long work that the page asks for, until `end` is called."""
        while (job := self._jobs.get()) is not None:
            try:
                lines = job()
            except USER_ERRORS as error:
                lines = [f"not done: {error}"]
            with self.lock:
                self.message, self.working = "\n".join(lines), ""
                self.version += 1

    def end(self) -> None:
        """Makes `serve` return; may be called from any thread."""
        self._jobs.put(None)

    def close(self) -> None:
        """Stops the server."""
        self._server.shutdown()
        self._server.server_close()

    def get(self, what: str, k: int) -> Answer:
        """Returns what the page shows: `state`, or a picture of view k."""
        editor = self.editor
        if what == "state":
            return json.dumps(self.state()).encode(), "application/json"
        if what == "photo":
            return _encoded(editor.photographs[k], ".jpg"), "image/jpeg"
        if what == "small":
            return _encoded(_outlined(editor.photographs[k], editor.masks[k]), ".jpg"), "image/jpeg"
        if what == "mask":
            return _encoded(_shade(editor.masks[k]), ".png"), "image/png"
        return _encoded(_label_picture(editor.hints[k]), ".png"), "image/png"

    def state(self) -> dict[str, Any]:
        """Returns the views with their numbers, what is being done, and the last message."""
        editor = self.editor
        with self.lock:
            views = [
                {"name": name, "width": mask.shape[1], "height": mask.shape[0],
                 "agreement": round(float(a), 4), "keep": keeps, "labels": bool(hint.any()),
                 "strokes": len(strokes)}
                for name, mask, a, keeps, hint, strokes in zip(
                    editor.names, editor.masks, editor.agreement, editor.keeps, editor.hints, self.strokes,
                    strict=True,
                )
            ]  # fmt: skip
            seconds = round(time.monotonic() - self.began) if self.working else 0
            return {
                "views": views, "working": self.working, "seconds": seconds, "message": self.message,
                "version": self.version, "unsaved": editor.unsaved,
            }  # fmt: skip

    def post(self, what: str, k: int, body: Any) -> None:
        """Does what the page asks for: `draw`, `undo`, `clear` or `keep` in view k, `update` or `save`.

        Raises:
            InputError: The body is wrong, or other work is being done.
        """
        from idr.importers.masks.editing import Stroke

        if what in ("update", "save"):
            self._begin(what)
            return
        height, width = self.first_hints[k].shape
        everywhere = Stroke("erase", "box", ((0, 0), (width, height)))
        added = [stroke_of(body)] if what == "draw" else [everywhere] if what == "clear" else []
        with self.lock:
            if what == "keep":
                self.editor.keep(k, bool(body))
                return
            self.strokes[k] = self.strokes[k][:-1] if what == "undo" else [*self.strokes[k], *added]
            hint = self.first_hints[k]
            for stroke in self.strokes[k]:
                hint = stroke.drawn(hint)
            self.editor.label(k, hint)
            self.editor.keep(k, self.first_keeps[k] and not self.strokes[k])

    def _begin(self, what: str) -> None:
        with self.lock:
            if self.working:
                raise InputError("still at work")
            self.working = "computing the masks" if what == "update" else "saving"
            self.began = time.monotonic()
        self._jobs.put(self._update if what == "update" else self.editor.save)

    def _update(self) -> list[str]:
        before = float(self.editor.agreement.mean())
        self.editor.update()
        after = float(self.editor.agreement.mean())
        return [f"agreement of the masks with the other views: {before:.3f} -> {after:.3f}; not saved yet"]


class _Handler(BaseHTTPRequestHandler):
    """Answers one request of the page."""

    page: MaskServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self, what: str, k: int) -> Answer:
        if what:
            return self.page.get(what, k)
        from idr.pictures.page import render

        title = f"Masks of {self.page.editor.folder.resolve().name}"
        page = render("masks.html", title=title, nonce=self.page.token)
        return page.encode(), "text/html; charset=utf-8"

    def _post(self, what: str, k: int) -> Answer:
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= LARGEST_BODY:
                raise ValueError("too long")
            body = json.loads(self.rfile.read(length) or b"null")
            self.page.post(what, k, body)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"unreadable request: {error}") from error
        return json.dumps(self.page.state()).encode(), "application/json"

    def _answer(self, work: Callable[[str, int], Answer]) -> None:
        status, kind = http.HTTPStatus.OK, "text/plain; charset=utf-8"
        try:
            if refusal := self.page.guard.refusal(self.headers):
                status, content = http.HTTPStatus.FORBIDDEN, refusal.encode()
            else:
                what, k = self._route()
                content, kind = work(what, k)
        except LookupError:
            status, content = http.HTTPStatus.NOT_FOUND, b"open the address that the command printed"
        except USER_ERRORS as error:
            status, content = http.HTTPStatus.BAD_REQUEST, str(error).encode()
        self._send(status, content, kind)

    def _route(self) -> tuple[str, int]:
        """Returns what is asked for and the number of a view, 0 without one; else a `LookupError`."""
        path = self.path.split("?")[0].split("/")
        token, what, number = [*path[1:], "", "", ""][:3]
        if not secrets.compare_digest(token.encode(), self.page.token.encode()) or len(path) < 3:
            raise LookupError(self.path)
        known = {"GET": ("", "state", "photo", "small", "mask", "labels"),
                 "POST": ("draw", "undo", "clear", "keep", "update", "save")}  # fmt: skip
        k = int(number) if number.isascii() and number.isdecimal() else 0
        if what not in known[self.command] or k >= len(self.page.editor) or len(path) > 4:
            raise LookupError(self.path)
        return what, k

    def _send(self, status: http.HTTPStatus, content: bytes, kind: str) -> None:
        from idr.viewer.guard import HEADERS

        self.send_response(status)
        nonce = self.page.token
        policy = {"Content-Security-Policy": POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        about = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (HEADERS | policy | about).items():
            self.send_header(name, value)
        if status != http.HTTPStatus.OK:
            self.close_connection = True  # a body may be unread
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing."""


def stroke_of(item: Any) -> Stroke:
    """Returns the stroke that the page describes: `label`, `shape`, `points`, `width`.

    Raises:
        InputError: It is none.
    """
    from idr.importers.masks.editing import LABELS, LARGEST_BRUSH, Stroke

    label, shape = item["label"], item["shape"]
    points = tuple((float(x), float(y)) for x, y in item["points"])
    width = float(item["width"])
    legal = label in LABELS if shape == "line" else shape == "box" and label == "within" and len(points) == 2
    if not legal or not points or not all(map(math.isfinite, (width, *sum(points, ())))):
        raise InputError("no such stroke")
    return Stroke(label, shape, points, min(max(width, 1.0), LARGEST_BRUSH))


def _encoded(image: np.ndarray, ending: str) -> bytes:
    """Encodes (H, W, 3 or 4) RGB(A) uint8."""
    import cv2

    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if ending == ".jpg" else []
    return cv2.imencode(ending, cv2.cvtColor(image, order), options)[1].tobytes()


def _outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the mask's outline, wide enough to be seen."""
    import cv2
    import numpy as np

    side = 2 * max(1, round(max(mask.shape) / 500)) + 1
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)) > 0


def _outlined(photograph: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A small copy of a photograph, dark outside the mask."""
    import cv2
    import numpy as np

    from idr.importers.source import size_within

    size = size_within(mask.shape, THUMBNAIL)
    small = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    small = np.where(inside[..., None], small, small // 3).astype(np.uint8)
    small[_outline(inside)] = OUTLINE
    return small


def _shade(mask: np.ndarray) -> np.ndarray:
    """RGBA to lay over a photograph: dark outside the mask, with its outline."""
    import numpy as np

    shade = np.zeros((*mask.shape, 4), np.uint8)
    shade[~mask] = (0, 0, 0, 140)
    shade[_outline(mask)] = (*OUTLINE, 255)
    return shade


def _label_picture(hint: np.ndarray) -> np.ndarray:
    """RGBA of labels."""
    import numpy as np

    picture = np.zeros((*hint.shape, 4), np.uint8)
    for label, color in LABEL_COLORS.items():
        picture[hint == label] = color
    return picture
