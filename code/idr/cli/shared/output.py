"""Standard output that cannot take a text: it ends no work, and the text is shown as far as possible."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from idr.errors import OutputError, printable

EXIT_CLOSED_PIPE = 141
"""Exit status of a listing whose reader has gone, as a shell shows that of other tools: 128 and SIGPIPE."""

_failures: list[OSError] = []


def prepare_output() -> None:
    """Lets the standard streams escape what their encoding lacks; forgets earlier failures."""
    _failures.clear()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # neither closed nor replaced
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")


def print_line(text: str) -> None:
    """Prints a text to standard output and flushes it; after a failure, further output goes nowhere."""
    try:
        print(printable(text, lines=True), flush=True)  # noqa: T201
    except OSError as error:
        _drop_output(error)


def check_output() -> int:
    """Returns the exit status of a command that only prints: 0, or that of a reader who has gone.

    Raises:
        OutputError: Something else kept the output from being written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _drop_output(error)
    if not _failures:
        return 0
    if isinstance(_failures[0], BrokenPipeError):
        return EXIT_CLOSED_PIPE
    raise OutputError(
        f"cannot write the standard output: {str(_failures[0].strerror).lower()}; free space there, or write "
        "to another file"
    )


def _drop_output(error: OSError) -> None:
    _failures.append(error)
    with suppress(OSError), open(os.devnull, "w") as nowhere:  # Python itself writes what is left on exit
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
