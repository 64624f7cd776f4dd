"""Exceptions for mistakes of the user, whose text is the complete message: got, expected, remedy.

The commands print `USER_ERRORS` as one line on stderr and exit with status 2. Any other exception is a bug of
this package and keeps its traceback.
"""

from __future__ import annotations

import unicodedata


class InputError(ValueError):
    """A value, file content or combination of options that cannot be used."""


class MissingInputError(FileNotFoundError):
    """A file or folder that does not exist."""


class OutputError(OSError):
    """A result that cannot be written (no space, no permission)."""


class TrainingStoppedError(RuntimeError):
    """Training that cannot continue; the message says where, why, and what was saved."""


USER_ERRORS = (InputError, MissingInputError, OutputError)


def printable(text: str, lines: bool = False) -> str:
    """Returns a text in which nothing controls a terminal or turns the reading direction.

    Such characters, which a name may hold, and bytes that are not UTF-8 appear as escapes. Line breaks and
    tabs are kept in a text of several `lines`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if (lines and character in "\n\t") or not _controls(character)
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )  # fmt: skip


def _controls(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in _BIDI_CONTROLS
    )


_BIDI_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
