"""What all commands share: logging, the device, user errors turned into exit status 2.

Only the standard library is imported here, so that ``-h`` and argument errors answer at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from idr.errors import USER_ERRORS, InputError, TrainingStoppedError

if TYPE_CHECKING:
    import torch

EXIT_OK = 0
EXIT_STOPPED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

log = logging.getLogger("idr")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something and wraps at a readable width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False, (), []):
            return action.help
        return super()._get_help_string(action)


def make_parser(description: str, examples: str = "") -> argparse.ArgumentParser:
    """Builds a parser in the house's look.

    Args:
        description: One or two sentences.
        examples: Example command lines, one a line, shown after the options.

    Returns:
        The parser, without options yet; abbreviations of flags are refused.
    """

    class _Formatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    epilog = f"examples:\n{examples}" if examples else None
    return argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=_Formatter, allow_abbrev=False
    )


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--gpu`` (published meaning) and ``--device``."""
    parser.add_argument(
        "--gpu",
        type=str,
        default="auto",
        help="GPU to use: auto = the least used one, if any; ignore = leave the environment as it is; "
        "a number = value for CUDA_VISIBLE_DEVICES",
    )
    parser.add_argument(
        "--device",
        type=str,
        default=None,
        help="cpu, cuda, cuda:N or mps; default: cuda if there is one, else cpu",
    )


def add_conf_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--conf``, ``--set`` and ``--data_root``."""
    parser.add_argument(
        "--conf", type=str, default="./confs/dtu_fixed_cameras.conf", help="HOCON configuration file"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a key of the conf, for example train.num_pixels=512; may be given several times",
    )
    parser.add_argument(
        "--data_root",
        type=str,
        default=None,
        help="folder that holds <data_dir>/scan<N>; default: data/ beside code/",
    )


def say(text: str) -> None:
    """Prints one result line to standard output, at once."""
    print(text, flush=True)  # noqa: T201


def setup_logging(verbose: bool = False) -> None:
    """Sends the package's log to standard error as plain lines, warnings marked."""

    class _Format(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = record.getMessage()
            return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def _least_used_gpu() -> str | None:
    """Index of the GPU with most free memory according to the driver, or None without one."""
    query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        free = [
            (int(memory), index.strip())
            for index, memory in (line.split(",") for line in listing.splitlines())
        ]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return max(free)[1] if free else None


def choose_device(gpu: str, device: str | None) -> torch.device:
    """Chooses the device from ``--gpu`` and ``--device``; to be called before torch touches a GPU.

    Args:
        gpu: ``auto``, ``ignore`` or a value for CUDA_VISIBLE_DEVICES.
        device: ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or None for the best there is.

    Returns:
        The device.

    Raises:
        InputError: A device was named that this machine does not have.
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


def run(function: Callable[[], int | None]) -> int:
    """Runs a command's body; a user's mistake becomes one message and status 2.

    Args:
        function: The body; returns an exit status or None for success.

    Returns:
        The exit status.
    """
    setup_logging()
    try:
        return function() or EXIT_OK
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return EXIT_USER_ERROR
    except TrainingStoppedError as error:
        print(f"stopped: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return EXIT_STOPPED
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's own
            raise
        from idr.failures import OUT_OF_MEMORY, Finding

        text = "no memory left; lower train.num_pixels, plot.chunk_pixels and plot.chunk_points"
        print(f"stopped: {Finding(OUT_OF_MEMORY, text)}", file=sys.stderr, flush=True)  # noqa: T201
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)  # noqa: T201
        return EXIT_INTERRUPTED


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses arguments; argparse itself exits with status 2 on a wrong one."""
    return parser.parse_args(argv)
