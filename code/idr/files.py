"""Atomic writing, and the reader of JSON.

While a file is written, a reader finds the old content or the new one, never a part of either: it is written
under a temporary name in its own folder, flushed to the disk and renamed over the old one. The rename is
atomic, whenever the process or the machine stops.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from idr.errors import USER_ERRORS, OutputError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of temporary files: hidden, and recognizable for the removal of those of killed processes."""

_REMEDIES = {
    errno.ENOSPC: "free some space there, or write to another disk",
    errno.EDQUOT: "your quota there is used up: remove something, or write to another disk",
    errno.EFBIG: "the file is larger than the system allows there: raise the limit, or write to another disk",
    errno.EACCES: "you may not write there: change the folder's permissions, or write to another folder",
    errno.EPERM: "you may not write there: change the folder's permissions, or write to another folder",
    errno.EROFS: "that file system is read-only: write to another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or write to another folder",
    errno.EEXIST: "a file stands where a folder is needed: move it away, or write to another folder",
    errno.EISDIR: "a folder stands where a file is to be written: move it away, or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def output_errors(target: Path, kept: str = "") -> Iterator[None]:
    """Turns errors of the operating system into `OutputError`, which names the target and what is unchanged.

    Raises:
        OutputError: The body raised an OSError other than `USER_ERRORS`.
    """
    try:
        yield
    except USER_ERRORS:
        raise
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        remedy = _REMEDIES.get(error.errno or 0, "check the disk, or write to another folder")
        kept_part = f"; {kept}" if kept else ""
        raise OutputError(f"cannot write {target}: {reason}{kept_part}; {remedy}") from error


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes or replaces a file atomically and makes missing parent folders.

    Content and name are on the disk on return. `write` is called once, with the open binary file (seekable).

    Raises:
        OutputError: The file cannot be written. The old file is unchanged and no temporary file is left.
    """
    path = Path(path)
    with output_errors(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OutputError(f"cannot write {path}: it is no regular file; choose another name")
        kept = "the file that was there is unchanged" if path.is_file() else ""
    with output_errors(path, kept):
        make_folder(path.parent)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "w+b") as file:
                write(cast(BinaryIO, file))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the exception being raised is more informative
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes UTF-8 text with `write_atomic`; bytes of a name that are not UTF-8 become escapes."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Integers beyond the range of float become infinite: whoever uses such a number refuses it as not finite.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_bytes(), parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int | float:
    return int(digits) if math.isfinite(float(digits)) else float(digits)


def make_folder(path: Path) -> None:
    """Makes a folder, unless it exists, and its missing parents, and flushes their names to the disk.

    Raises:
        OutputError: The folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        return
    with output_errors(path):
        if path.parent != path:
            make_folder(path.parent)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flushes the names in an existing folder (new, renamed, removed) to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by some network file systems
            raise
    finally:
        os.close(descriptor)


def temporary_files(folder: Path) -> list[Path]:
    """Returns the temporary files of `write_atomic` in a folder, in name order.

    Includes those of active writers, but none in subfolders. The folder may be missing.
    """
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name) and entry.is_file())


FILE_LIST = ".idr_files.json"
"""The file in which `whole_folder` lists the files of a folder with their SHA-256 digests."""


def files_of(folder: Path) -> dict[str, Path]:
    """Returns the files and links at any depth by relative name."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def digest(path: Path) -> str:
    """Returns the SHA-256 digest of a file; empty for what is no regular file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder, which replaces `folder` if the body succeeds and is removed if not.

    Missing parents are made. The files are listed in `FILE_LIST`, for `check_replaceable`.

    Raises:
        OutputError: The folder cannot be written; an old one is unchanged.
    """
    with output_errors(folder, "what was there is unchanged"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
        try:
            os.mkdir(temporary)
            yield temporary
            digests = {name: digest(path) for name, path in sorted(files_of(temporary).items())}
            content = {"generator": "idr", "files": digests}
            write_text_atomic(temporary / FILE_LIST, json.dumps(content, indent=1) + "\n")
            _swap_in(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap_in(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(new, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    os.rename(folder, old)  # replaces the new empty folder
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old)


def is_number(value: object) -> bool:
    """Whether a value from a JSON file, read by `read_json`, is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
