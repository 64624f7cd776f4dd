"""What all commands share: parsers, logging, the device, errors turned into exit statuses.

Only the standard library is imported here, so that ``-h`` and argument errors are answered at once.
"""

from __future__ import annotations

import argparse
import errno
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from idr.cli.shared.commands import call_of, script_called
from idr.cli.shared.output import check_output, prepare_output, print_line
from idr.errors import USER_ERRORS, InputError, TrainingStoppedError, printable
from idr.failures import OUT_OF_MEMORY, Finding
from idr.places import BESIDE_CODE
from idr.progress_bar import bars_cleared, bars_shown

if TYPE_CHECKING:
    import torch

EXIT_OK = 0
EXIT_STOPPED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

MAX_INT = 2**63 - 1
"""Largest whole number of a flag."""
THREADS_PER_CORE = 8
"""Most threads for each core; more only wait for each other, and 100,000 crash OpenMP."""

LARGEST = {
    "batch_size": 1_000_000, "downscale": 10_000, "faces": 100_000_000, "frames": 1_000_000,
    "holdout": 100_000, "img_res": 32_768, "jobs": 10_000, "mesh_resolution": 4096, "nepoch": 10**9,
    "resolution": 4096, "samples": 100_000_000, "side": 16_384, "supersampling": 64, "texture": 16_384,
    "threads": THREADS_PER_CORE * (os.cpu_count() or 1), "views": 100_000,
}  # fmt: skip
"""Largest sizes and counts of flags: larger ones are refused before they use up memory or time."""

log = logging.getLogger("idr")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows informative defaults only, keeps the line breaks of the examples, wraps at 100 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False, (), []):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Refuses numbers that nothing can hold, and shows arguments without their control characters."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("type", int, _whole_number)
        self.register("type", float, _finite_number)

    def error(self, message: str) -> NoReturn:
        """Prints usage and message; exit status 2."""
        super().error(printable(message))

    def print_help(self, file: Any = None) -> None:
        """Prints the help to standard output like a result, or to a file."""
        if file is None:
            say(self.format_help().rstrip())
        else:
            super().print_help(file)


def _whole_number(text: str) -> int:
    number = int(text)
    if abs(number) > MAX_INT:
        raise argparse.ArgumentTypeError(f"{text}: expected at most {MAX_INT:,}")
    return number


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text}: expected a finite number")
    return number


def _check_sizes(arguments: argparse.Namespace) -> None:
    for flag, largest in LARGEST.items():
        value = getattr(arguments, flag, None)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > largest:
                raise InputError(f"--{flag} {number}: expected at most {largest:,}")


class _Version(argparse.Action):
    """``--version``; looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import idr

        say(f"idr {idr.__version__}")
        parser.exit()


def make_parser(description: str, examples: str = "", command: str | None = None) -> argparse.ArgumentParser:
    """Builds a parser with ``--version``, ``--quiet``, ``--verbose``, and ``-h`` with examples.

    Args:
        description: What the command does.
        examples: Lines that begin with ``%(prog)s``, with paths as seen from ``code/``.
        command: The subcommand of ``idr``, shown in the form in which it was called. None for any other
            program.
    """
    if not script_called() and command:
        examples = examples.replace(" ../", " ")
    parser = Parser(
        prog=shlex.join(call_of(command)) if command else None, description=description,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=HelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add_version(parser)
    levels = parser.add_mutually_exclusive_group()
    levels.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    levels.add_argument("--verbose", action="store_true", help="also log internals")
    return parser


def add_version(parser: argparse.ArgumentParser) -> None:
    """Adds ``--version``."""
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version and exit"
    )


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
        root = f"folder that holds <data_dir>/scan<N>; default: data/ {BESIDE_CODE}"
        parser.add_argument("--data_root", help=root)


def say(text: str) -> None:
    """Prints a result line to standard output and flushes it."""
    with bars_cleared():
        print_line(text)


class _PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _Lines(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with bars_cleared():
            super().emit(record)


@contextmanager
def _logging(level: int) -> Iterator[None]:
    """Sends the package's log, from a level on, to standard error as plain lines, and shows progress bars.

    Warnings and errors begin with their level. A command within a command keeps the outer one's level.
    """
    before = log.handlers[:], log.level, log.propagate
    if any(isinstance(handler, _Lines) for handler in before[0]):
        yield
        return
    handler = _Lines(sys.stderr)
    handler.setFormatter(_PlainLines())
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(level)
    try:
        with bars_shown(level <= logging.INFO):
            yield
    finally:
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])


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
        if not all(part.strip().isdecimal() for part in gpu.split(",")):
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


def run(function: Callable[[], int | None], level: int = logging.INFO) -> int:
    """Runs a command's body, which returns an exit status or None for success, and returns the exit status.

    A user's mistake becomes one message and status 2. `level` is that of the log.
    """
    try:
        with _logging(level), _interruptible():
            return function() or EXIT_OK
    except USER_ERRORS as error:
        text, status = f"error: {error}", EXIT_USER_ERROR
    except TrainingStoppedError as error:
        text, status = f"stopped: {error}", EXIT_STOPPED
    except (MemoryError, RuntimeError) as error:
        if _is_unknown_user(error):
            text, status = "error: no home folder of the user after ~; write the path out", EXIT_USER_ERROR
        elif _is_out_of_memory(error):
            remedy = "no memory left; lower train.num_pixels, plot.chunk_pixels and plot.chunk_points"
            text, status = f"stopped: {Finding(OUT_OF_MEMORY, remedy)}", EXIT_STOPPED
        else:
            raise
    except OSError as error:
        if error.filename is None:
            raise
        log.debug("of the operating system", exc_info=True)
        text, status = f"error: {_os_message(error)}", EXIT_USER_ERROR
    except KeyboardInterrupt:
        text, status = "interrupted", EXIT_INTERRUPTED
    with suppress(OSError):  # nobody reads it
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201
    return status


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ended; torch raises a class of its own on a GPU, and none on the CPU."""
    named = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return named or isinstance(error, MemoryError)


def _is_unknown_user(error: Exception) -> bool:
    return str(error).startswith("Could not determine home directory")  # by pathlib, without the path


def _os_message(error: OSError) -> str:
    """Returns the message of an error that a file's name or place causes."""
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    remedies = {errno.ENAMETOOLONG: "choose a shorter name", errno.ELOOP: "its links lead to each other"}
    remedy = remedies.get(error.errno or 0, "correct the path, or look at permissions and the disk there")
    return f"{names}: {(error.strerror or type(error).__name__).lower()}; {remedy}"


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the working folder was removed; change to one that exists: cd FOLDER") from error


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    body: Callable[[argparse.Namespace], int | None],
    listing: bool = False,
) -> int:
    """Parses `argv`, None for the process's arguments, and runs the body on them; see `run`.

    argparse exits with status 2 on a wrong argument. What a `listing` command prints is its only result: its
    exit status says whether that was written.
    """
    # Threads that wait for others sleep. By default they spin, and keep the cores from what runs beside them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    prepare_output()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # after a mistake, or having printed help or version
        raise SystemExit(end.code or run(check_output)) from None

    def checked() -> int | None:
        _check_working_folder()
        _check_sizes(arguments)
        status = body(arguments)
        return (check_output() if listing else EXIT_OK) or status

    level = logging.WARNING if arguments.quiet else logging.DEBUG if arguments.verbose else logging.INFO
    return run(checked, level)
