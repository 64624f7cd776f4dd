"""Whom the page answers: only its own browser windows. The headers of its answers; texts without markup.

A page of another site could otherwise connect to the viewer of everyone who visits it, directly or by a name
that resolves to this machine (DNS rebinding).
"""

from __future__ import annotations

import http
import ipaddress
import socket
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from idr.errors import MissingInputError, printable

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob: data:; connect-src 'self' ws://{host} wss://{host} data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy. viser's page unpacks its own script and style and compiles its Markdown; nothing
is fetched from or sent to another place."""
_PLAIN = frozenset(string.ascii_letters + string.digits + " .,;:/()+=%")


def escape_markup(text: str) -> str:
    """Returns Markdown that shows a text as it is: names may hold Markdown, HTML or control characters."""
    return "".join(
        character if character in _PLAIN or ord(character) > 127 else f"&#{ord(character)};"
        for character in printable(text)
    )


class Guard:
    """Decides whether a request comes from the page itself, opened under a name of this machine.

    `host` is the address at which the page listens.
    """

    def __init__(self, host: str) -> None:
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    def refusal(self, headers: Any) -> str:
        """Returns why a request is refused, empty if it is not.

        The headers are those of websockets or of the standard library.
        """
        hosts, origins = headers.get_all("Host") or [], headers.get_all("Origin") or []
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return "unknown Host: open the page by the address that the viewer printed"
        if any(urlsplit(origin).netloc.lower() != hosts[0].lower() for origin in origins):
            return "another site may not use the viewer"
        return ""

    def _is_here(self, host: str) -> bool:
        """Whether a name can only mean this machine: an address, or a name that it has."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


@contextmanager
def guarded(host: str) -> Iterator[None]:
    """Within the context, viser's server starts with a `Guard`, since viser itself has no such option.

    Raises:
        MissingInputError: This version of viser starts its server in another way.
    """
    from websockets.asyncio import server

    serve, guard, started = server.serve, Guard(host), []

    def guarded_serve(*arguments: Any, process_request: Callable[..., Any] | None, **options: Any) -> Any:
        def process(connection: Any, request: Any) -> Any:
            refusal = guard.refusal(request.headers)
            if refusal:
                answer = connection.respond(http.HTTPStatus.FORBIDDEN, f"{refusal}\n")
            else:
                answer = None if process_request is None else process_request(connection, request)
            if answer is not None:
                answer.headers.update(HEADERS)
                allowed = "localhost" if refusal else request.headers["Host"]
                answer.headers["Content-Security-Policy"] = POLICY.format(host=allowed)
            return answer

        started.append(True)
        return serve(*arguments, process_request=process, **options)

    server.serve = guarded_serve  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        server.serve = serve  # type: ignore[misc]
    if not started:
        raise MissingInputError("the viewer needs another version of viser: pip install 'viser==1.1.*'")
