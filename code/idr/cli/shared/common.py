"""What all commands share: parsers, logging, the device, errors turned into exit statuses.

Only the standard library is imported here, so that ``-h`` and argument errors are answered at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from idr.errors import USER_ERRORS, InputError, TrainingStoppedError
from idr.failures import OUT_OF_MEMORY, Finding

if TYPE_CHECKING:
    import torch

EXIT_OK = 0
EXIT_STOPPED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

log = logging.getLogger("idr")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows informative defaults only, keeps the line breaks of the examples, wraps at 100 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False, (), []):
            return action.help
        return super()._get_help_string(action)


class _Version(argparse.Action):
    """``--version``; looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import idr

        say(f"idr {idr.__version__}")
        parser.exit()


def make_parser(description: str, examples: str = "") -> argparse.ArgumentParser:
    """Builds a parser with ``-h``, which ends with the examples, and ``--version``; refuses abbreviations."""
    epilog = f"examples:\n{examples}" if examples else None
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version and exit"
    )
    return parser


def add_conf_arguments(
    parser: argparse.ArgumentParser, conf: str = "./confs/dtu_fixed_cameras.conf", data_root: bool = True
) -> None:
    """Adds ``--conf`` with a default, ``--set`` and, unless the command chooses it, ``--data_root``."""
    parser.add_argument("--conf", default=conf, help="HOCON configuration file")
    several = "replace a key of the conf, for example train.num_pixels=512; may be given several times"
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help=several
    )
    if data_root:
        root = "folder that holds <data_dir>/scan<N>; default: data/ beside code/"
        parser.add_argument("--data_root", help=root)


def say(text: str) -> None:
    """Prints a result line to standard output and flushes it."""
    print(text, flush=True)  # noqa: T201


class _PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _setup_logging() -> None:
    """Sends the package's log to standard error as plain lines, with the level before warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainLines())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def _least_used_gpu() -> str | None:
    """Returns the index of the GPU with the most free memory according to the driver, None without a GPU."""
    query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        pairs = [line.split(",") for line in listing.splitlines()]
        free = [(int(memory), index.strip()) for index, memory in pairs]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return max(free)[1] if free else None


def choose_device(gpu: str, device: str | None) -> torch.device:
    """Returns the device that ``--gpu`` and ``--device`` choose; call it before torch initializes a GPU.

    Raises:
        InputError: This machine does not have the device.
    """
    if gpu == "auto":
        if device is None and "CUDA_VISIBLE_DEVICES" not in os.environ:
            index = _least_used_gpu()
            if index is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = index
    elif gpu != "ignore":
        if not all(part.strip().isdigit() for part in gpu.split(",")):
            raise InputError(f"--gpu {gpu}: expected auto, ignore or a GPU number such as 0")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    import torch

    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    if device is None:
        return torch.device("cuda" if "cuda" in available else "cpu")
    if device not in available:
        raise InputError(f"--device {device}: this machine has {', '.join(available)}; choose one of these")
    return torch.device(device)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP, unless they are ignored or handled, end the body as Ctrl-C does: tidily."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {}
    with suppress(ValueError):  # only the main thread can handle signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is used up: Python's, a device's, or the CPU's, for which torch has no error class."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return True
    return "DefaultCPUAllocator: " in str(error)


def run(function: Callable[[], int | None]) -> int:
    """Runs a command's body, which returns an exit status or None for success, and returns the exit status.

    A user's mistake becomes one message and status 2.
    """
    _setup_logging()
    try:
        with _interruptible():
            return function() or EXIT_OK
    except USER_ERRORS as error:
        text, status = f"error: {error}", EXIT_USER_ERROR
    except TrainingStoppedError as error:
        text, status = f"stopped: {error}", EXIT_STOPPED
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        remedy = "no memory left; lower train.num_pixels, plot.chunk_pixels and plot.chunk_points"
        text, status = f"stopped: {Finding(OUT_OF_MEMORY, remedy)}", EXIT_STOPPED
    except KeyboardInterrupt:
        text, status = "interrupted", EXIT_INTERRUPTED
    print(text, file=sys.stderr, flush=True)  # noqa: T201
    return status


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    body: Callable[[argparse.Namespace], int | None],
) -> int:
    """Parses `argv`, None for the process's arguments, and runs the body on them; see `run`.

    argparse exits with status 2 on a wrong argument.
    """
    arguments = parser.parse_args(argv)
    return run(lambda: body(arguments))
