"""``serve.py``: serves a browser page that shows a run, also during training."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import choose_device, make_parser, run_command, say
from idr.cli.shared.flags import LATEST, add_flags, add_switches, check_at_least, check_within
from idr.cli.shared.runs import find_exps_folder

if TYPE_CHECKING:
    from idr.viewer.server import PageServer

DESCRIPTION = (
    "Serves a browser page that shows a run: its surface, its cameras with photographs, renderings and error "
    "maps, and new views rendered on demand. The run may still be training; its files are only read."
)
EXAMPLES = """\
  %(prog)s --run latest
  %(prog)s --run exps/dtu_fixed_cameras_65 --port 8090
  ssh -L 8080:localhost:8080 HOST, run the first one there, and open http://localhost:8080 here"""
BELOW_TRAINING = 10
"""Added to the niceness during a training."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    from idr.viewer.limits import RESOLUTIONS, SIDES

    parser = make_parser(DESCRIPTION, EXAMPLES, "view")
    add = parser.add_argument
    add(
        "--run", default=LATEST,
        help="latest = the run trained last; or a run's folder; or the folder of all runs of a name for its "
        "last one",
    )  # fmt: skip
    add("--conf", help="conf of a run that has none of its own (published pretrained runs)")
    add_flags(parser, "exps_folder")
    add("--data_root", help="folder that holds <data_dir>/scan<N>; default: the run's")
    add_flags(parser, "gpu", "device", "threads")
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 admits everybody on the network")
    add("--port", type=int, default=8080, help="port; 0 for any free one")
    surface, images = (f"{least} to {most}" for least, most, _ in (RESOLUTIONS, SIDES))
    add("--resolution", type=int, default=96, help=f"initial resolution of the surface, {surface}")
    add("--side", type=int, default=320, help=f"initial pixels along the longer side of images, {images}")
    add_switches(
        parser,
        beside_training="use one thread at low priority, and end when standard input closes (exp_runner.py "
        "--viewer starts it this way)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _view)


def _view(arguments: argparse.Namespace) -> None:
    server = _open_page(arguments)
    if arguments.beside_training:
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    host = "localhost" if arguments.host in ("127.0.0.1", "0.0.0.0", "::") else arguments.host
    try:
        hint = "" if arguments.beside_training else " (Ctrl-C ends it)"
        say(f"viewer: http://{host}:{server.port}{hint}")
        server.serve()
    finally:
        server.close()


def _open_page(arguments: argparse.Namespace) -> PageServer:
    from idr.viewer.limits import RESOLUTIONS, SIDES

    check_within(arguments, resolution=RESOLUTIONS[:2], side=SIDES[:2])
    check_at_least(arguments, threads=1)

    from idr.viewer.server import PageServer, free_port, require_viser

    require_viser()
    port = free_port(arguments.host, arguments.port)  # before anything is read
    folder = find_watched_run(arguments.run, arguments.exps_folder)
    device = choose_device(arguments.gpu, arguments.device)

    import torch

    from idr.runs.folders import conf_of_run
    from idr.viewer.checkpoints import CheckpointReader

    torch.set_flush_denormal(True)
    if arguments.beside_training:
        os.nice(BELOW_TRAINING)
    threads = 1 if arguments.beside_training else arguments.threads
    if threads is not None:
        torch.set_num_threads(threads)
    reader = CheckpointReader(folder, conf_of_run(folder, arguments.conf), arguments.data_root, device)
    if not arguments.beside_training:
        say(f"run: {folder}")
    return PageServer(reader, arguments.host, port, arguments.resolution, arguments.side)


def find_watched_run(name: str, exps_folder: str) -> Path:
    """Returns the folder of the run to show, which may not hold a checkpoint yet.

    Args:
        name: ``latest``; ``exps/<name>/<time>``; ``exps/<name>`` or ``<name>`` for the last run of the name.
        exps_folder: As for `find_exps_folder`.

    Raises:
        MissingInputError: There is no such run.
    """
    from idr.conf.files import project_root
    from idr.runs.folders import CHECKPOINTS, newest_run

    if name != LATEST:
        for place in (project_root() / Path(name).expanduser(), Path(name).expanduser()):
            if (place / CHECKPOINTS).is_dir():
                return place.resolve()
            if place.is_dir():
                return newest_run(place.resolve().parent, place.resolve().name)
    exps = find_exps_folder(exps_folder)
    return newest_run(exps, None if name == LATEST else name)


def _end_with_input(server: PageServer) -> None:
    """Ends the page when standard input closes, that is, when the parent process ends."""
    while sys.stdin.buffer.read(4096):
        pass
    server.end()


if __name__ == "__main__":
    raise SystemExit(main())
