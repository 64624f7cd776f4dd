"""``exp_runner.py --viewer``: starts the viewer in a separate process; training never waits for it."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("idr.cli.train")

DEFAULT_PORT = 8080
HOST = "127.0.0.1"
END_SECONDS = 10.0
"""Seconds for the viewer to end by itself before it is killed."""


def add_viewer_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--viewer``."""
    parser.add_argument(
        "--viewer", type=int, nargs="?", const=DEFAULT_PORT, metavar="PORT",
        help="show the run at http://localhost:PORT while it trains, in a separate process on the CPU with "
        f"one thread and low priority; default PORT: {DEFAULT_PORT}; 0 for any free one "
        "(pip install 'idr-surface[viewer]')",
    )  # fmt: skip


def check_viewer(port: int | None) -> None:
    """Checks, before anything is trained, that the viewer can start at the port of ``--viewer``, if any.

    Raises:
        MissingInputError: viser is not installed.
        InputError: The port cannot be used.
    """
    if port is not None:
        from idr.viewer.server import free_port, require_viser

        require_viser()
        free_port(HOST, port)


@contextmanager
def viewer_process(port: int | None, run: Path) -> Iterator[None]:
    """Runs the viewer of a run, if it has a port, while the body runs; it only reads the run's files.

    The viewer ends when its standard input closes, so it never outlives training, however that ends.
    """
    if port is None:
        yield
        return
    command = [sys.executable, "-m", "idr.cli.view", "--beside_training", "--run", str(run)]
    command += ["--host", HOST, "--port", str(port), "--gpu", "ignore", "--device", "cpu"]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # for classes of the user
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    viewer = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    assert viewer.stdin is not None
    try:
        yield
    finally:
        if viewer.poll() is not None:
            log.warning("the viewer had ended with status %d; training went on without it", viewer.returncode)
        viewer.stdin.close()
        try:
            viewer.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            viewer.kill()
            viewer.wait()
