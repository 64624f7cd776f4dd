"""The mistakes a user can make, as exceptions whose text is the whole message.

Every message says what was got, what was expected and how to mend it. The command line turns these
exceptions, and no others, into one line on stderr and exit status 2; anything else is a bug of ours and
keeps its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """A value, file content or combination of options that cannot be used."""


class MissingInputError(FileNotFoundError):
    """A file or folder that should be there and is not."""


class OutputError(OSError):
    """A result that could not be written (no space, no permission)."""


class TrainingStoppedError(RuntimeError):
    """Training that must not go on; the message says where and why, and what was kept."""


USER_ERRORS = (InputError, MissingInputError, OutputError)
