"""``serve.py``: a run on a page in the browser, also while it trains."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import add_device_arguments, choose_device, make_parser, parse, run, say
from idr.cli.shared.runs import find_exps_folder
from idr.cli.shared.threads import add_threads_argument
from idr.errors import InputError

if TYPE_CHECKING:
    from idr.viewer.server import PageServer

LATEST = "latest"
DESCRIPTION = (
    "Serves a page that shows a run: the surface growing, the cameras with their photographs, renderings "
    "beside them and their errors, new views rendered on demand. The run may still be trained; its files are "
    "only read."
)
EXAMPLES = """\
  python viewer/serve.py --run latest
  python viewer/serve.py --run exps/dtu_fixed_cameras_65 --port 8090
  ssh -L 8080:localhost:8080 HOST, there the first one, and here open http://localhost:8080"""
BELOW_TRAINING = 10
"""Added to the niceness beside a training."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--run",
        default=LATEST,
        help="the run trained last, or a run's folder, or that of all runs of a name for the last of them",
    )
    parser.add_argument(
        "--conf", default=None, help="conf for a run that holds none of its own (published pretrained runs)"
    )
    parser.add_argument(
        "--exps_folder", default="exps", help="folder of all runs, for --run latest or a name"
    )
    parser.add_argument(
        "--data_root", default=None, help="folder that holds <data_dir>/scan<N>; default: the run's"
    )
    add_device_arguments(parser)
    add_threads_argument(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets everybody on the network in"
    )
    parser.add_argument("--port", type=int, default=8080, help="port; 0 for any free one")
    parser.add_argument("--resolution", type=int, default=96, help="of the surface at first, 32 to 512")
    parser.add_argument(
        "--side", type=int, default=320, help="pixels along the longer side of pictures at first"
    )
    parser.add_argument(
        "--beside_training",
        action="store_true",
        help="compute with one thread at low priority, and end when standard input closes (how "
        "exp_runner.py --viewer starts it)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _view(arguments))


def _view(arguments: argparse.Namespace) -> None:
    server = open_page(arguments)
    if arguments.beside_training:
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    host = "localhost" if arguments.host in ("127.0.0.1", "0.0.0.0", "::") else arguments.host
    say(f"viewer: http://{host}:{server.port}" + ("" if arguments.beside_training else " (Ctrl-C ends it)"))
    try:
        server.serve()
    finally:
        server.close()


def open_page(arguments: argparse.Namespace) -> PageServer:
    """Opens the run and its page, and says which run it is.

    Raises:
        MissingInputError: No such run, conf or scene, or viser is not installed.
        InputError: An argument cannot be used.
    """
    for flag, least, most in (("resolution", 32, 512), ("side", 64, 1024)):
        if not least <= getattr(arguments, flag) <= most:
            raise InputError(f"--{flag} {getattr(arguments, flag)}: expected {least} to {most}")
    if arguments.threads is not None and arguments.threads < 1:
        raise InputError(f"--threads {arguments.threads}: expected 1 or more")

    from idr.viewer.server import PageServer, ServeOptions, free_port, require_viser

    require_viser()
    port = free_port(arguments.host, arguments.port)  # before anything is read
    folder = find_watched_run(arguments.run, arguments.exps_folder)
    device = choose_device(arguments.gpu, arguments.device)

    import torch

    from idr.runs.opened import conf_of_run
    from idr.viewer.runs import WatchedRun

    torch.set_flush_denormal(True)
    logging.getLogger("idr.meshing").setLevel(logging.WARNING)  # it tells of each mesh's evaluations
    if arguments.beside_training:
        os.nice(BELOW_TRAINING)
    threads = 1 if arguments.beside_training else arguments.threads
    if threads is not None:
        torch.set_num_threads(threads)
    watched = WatchedRun(folder, conf_of_run(folder, arguments.conf), arguments.data_root, device)
    server = PageServer(watched, ServeOptions(arguments.host, port, arguments.resolution, arguments.side))
    if not arguments.beside_training:
        say(f"run: {folder}")
    return server


def find_watched_run(given: str, exps_folder: str) -> Path:
    """Finds the run to watch, which need not hold a checkpoint yet.

    Args:
        given: ``latest``; ``exps/<name>/<time>``; ``exps/<name>`` or ``<name>`` for the last run of the name.
        exps_folder: Folder of all runs, as for `find_exps_folder`.

    Raises:
        MissingInputError: There is none.
    """
    from idr.conf.files import project_root
    from idr.runs.folders import CHECKPOINTS, newest_run

    if given != LATEST:
        for place in (project_root() / Path(given).expanduser(), Path(given).expanduser()):
            if (place / CHECKPOINTS).is_dir():
                return place.resolve()
            if place.is_dir():
                return newest_run(place.resolve().parent, place.resolve().name)
    exps = find_exps_folder(exps_folder)
    return newest_run(exps, None if given == LATEST else given)


def _end_with_input(server: PageServer) -> None:
    """Ends the page when whoever holds the other end of standard input ends, however it does."""
    while sys.stdin.buffer.read(4096):
        pass
    server.end()


if __name__ == "__main__":
    raise SystemExit(main())
