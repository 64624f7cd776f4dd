"""Exceptions for mistakes of the user, whose text is the complete message: got, expected, remedy.

The commands print `USER_ERRORS` as one line on stderr and exit with status 2. Any other exception is a bug of
this package and keeps its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """A value, file content or combination of options that cannot be used."""


class MissingInputError(FileNotFoundError):
    """A file or folder that does not exist."""


class OutputError(OSError):
    """A result that cannot be written (no space, no permission)."""


class TrainingStoppedError(RuntimeError):
    """Training that cannot continue; the message says where, why, and what was saved."""


USER_ERRORS = (InputError, MissingInputError, OutputError)
