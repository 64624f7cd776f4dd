"""Reads ``metrics.csv`` of a run."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from pathlib import Path

from idr.errors import InputError

_EPOCH = re.compile(r"[0-9]{1,15}")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Returns the rows of ``metrics.csv``, none without the file; a last row that is cut short is left out.

    Raises:
        InputError: The file is not as training wrote it.
    """
    try:
        if not os.path.lexists(path):
            return []
        if not path.is_file():
            raise _misfit(path, "it is no regular file")
        lines = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _misfit(path, str(error)) from error
    header = lines[0] if lines else []
    if header[:1] != ["epoch"] or len(set(header)) < len(header):
        raise _misfit(path, f"its first line is {','.join(header)[:60]!r}")
    rows = lines[1:]
    if rows and len(rows[-1]) < len(header):
        del rows[-1]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not _EPOCH.fullmatch(row[0]) or not all(map(_is_value, header, row)):
            raise _misfit(path, f"line {number} is {','.join(row)[:60]!r}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _is_value(name: str, text: str) -> bool:
    """Whether a cell is empty or a number, a finite one if it is the time."""
    try:
        return not text or math.isfinite(float(text)) or name != "minutes"
    except ValueError:
        return False


def _misfit(path: Path, got: str) -> InputError:
    return InputError(
        f"{path}: {got}; expected numbers separated by commas below a line of names, the first one epoch, as "
        "training writes them (a spreadsheet program may save another form): restore it, or move it away, "
        "and the table begins anew"
    )
