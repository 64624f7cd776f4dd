"""Serves the page: port, viser's server, and polling for new checkpoints."""

from __future__ import annotations

import contextlib
import importlib
import io
import socket
import threading
from typing import Any

from idr.errors import InputError, MissingInputError
from idr.viewer.checkpoints import CheckpointReader
from idr.viewer.guard import guarded

POLL_SECONDS = 1.0
"""Interval of the polling for new checkpoints."""


def require_viser() -> Any:
    """Imports viser; raises `MissingInputError` if it is not installed."""
    try:
        return importlib.import_module("viser")
    except ImportError as error:
        raise MissingInputError("the viewer needs viser: pip install 'idr-surface[viewer]'") from error


def free_port(host: str, port: int) -> int:
    """Returns the port if it is free, or any free one for 0; viser itself would silently take another one.

    Raises:
        InputError: It is taken or not allowed, or the address is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: expected 1 to 65535, or 0 for any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: {error}; expected an address of this machine") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind(address)
            return int(probe.getsockname()[1])
        except OSError as error:
            raise InputError(
                f"port {port} of {host} cannot be used ({error.strerror}): another viewer may be running; "
                "give another port, or 0 for any free one"
            ) from error


class PageServer:
    """The page of a run, served until it is closed.

    It listens at the address `host`, 127.0.0.1 for this machine only, and at a port, 0 for any free one. The
    resolution of the surface and `side`, the pixels along the longer side of images, are initial values.

    Raises:
        MissingInputError: viser is not installed.
        InputError: The port or the address cannot be used.
    """

    def __init__(self, reader: CheckpointReader, host: str, port: int, resolution: int, side: int) -> None:
        viser = require_viser()
        port = free_port(host, port)

        from idr.viewer.session import Session

        with contextlib.redirect_stdout(io.StringIO()), guarded(host):  # viser prints a banner
            self._server = viser.ViserServer(host=host, port=port, verbose=False)
        self._ending = threading.Event()
        self.port = int(self._server.get_port())
        if self.port != port:  # taken meanwhile
            self._stop_server()
            raise InputError(f"port {port} of {host} was just taken; start again")
        # Sharing would open a tunnel through a third party's server.
        self._server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        self._session = Session(reader, self._server, resolution, side)

    def serve(self) -> None:
        """Polls for new checkpoints until `end` is called."""
        while not self._ending.is_set():
            self._session.poll()
            self._ending.wait(POLL_SECONDS)

    def end(self) -> None:
        """Makes `serve` return; may be called from any thread."""
        self._ending.set()

    def close(self) -> None:
        """Stops worker and server."""
        self._session.close()
        self._stop_server()

    def _stop_server(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()
