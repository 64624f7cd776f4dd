"""Atomic writing: a reader finds the old content or the new one, never a part of either.

A file is written under a temporary name in its own folder, flushed to the disk and renamed over the old one.
The rename is atomic, whenever the process or the machine stops.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from idr.errors import USER_ERRORS, InputError, OutputError

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
    """Writes UTF-8 text with `write_atomic`."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


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


def check_file(
    path: Path,
    overwrite: bool,
    is_ours: Callable[[Path], bool] = lambda path: False,
    flag: str = "--out",
    force: str = "--force",
) -> None:
    """Checks, before the work starts, that a file can be written and replaces nothing that is not ours.

    Args:
        path: The file; it may be missing, as may its folder.
        overwrite: Whether an existing file may be replaced.
        is_ours: Whether the command wrote the existing file, which it then may replace in any case.
        flag: The flag that names the file, for messages.
        force: The flag of `overwrite`, for messages.

    Raises:
        InputError: The path is a folder, a link or a device, or a file that must not be replaced.
        OutputError: The file cannot be written there.
    """
    with output_errors(path):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            _check_parent(path)
            return
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; expected the name of a file: choose another {flag}")
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
        raise InputError(f"{path} is {what}; expected a new file, or one to replace: choose another {flag}")
    if not overwrite and not is_ours(path):
        raise InputError(f"{path} is there already: add {force} to replace it, or choose another {flag}")
    with output_errors(path):
        _check_parent(path)


def _check_parent(path: Path) -> None:
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file stands in the way", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


PAGE_MARK = '<meta name="generator" content="idr">'
ZIP_MARK = b"idr"
"""Signs of our pages, in their heads, and of our npz files, in the comment of the archive."""


def is_own_page(path: Path) -> bool:
    """Whether a path is an HTML page of ours."""
    if not path.is_file():  # a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file:
            return PAGE_MARK.encode() in file.read(1000)
    except OSError:
        return False


def mark_zip(file: BinaryIO) -> None:
    """Marks an archive as ours; the file is open for reading and writing."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = ZIP_MARK


def is_own_zip(path: Path) -> bool:
    """Whether a path is an archive that `mark_zip` marked."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == ZIP_MARK
    except (OSError, zipfile.BadZipFile):
        return False


def check_replaceable(
    folder: Path, overwrite: bool, is_ours: Callable[[Path], bool], later: Sequence[str], writer: str
) -> None:
    """Checks that writing a scene to a folder destroys nothing else.

    Args:
        folder: The folder; it may be missing or empty.
        overwrite: Whether an earlier scene of the same writer may be replaced.
        is_ours: Whether the folder was written by the same writer, with `whole_folder`.
        later: Patterns of files that other commands of ours add to a scene, relative to the folder.
        writer: The writer, for messages.

    Raises:
        InputError: The folder has content that must not be replaced.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder for the scene: choose another --out")
    if not is_ours(folder):
        raise InputError(
            f"{folder} exists and was not written by {writer}: choose another --out, or move it away"
        )
    if not overwrite:
        raise InputError(f"{folder} already has a scene: add --force to replace it, or choose another --out")
    digests = _read_list(folder)
    if digests is None:
        raise InputError(
            f"{folder} holds no list of the files that {writer} wrote ({FILE_LIST}), so --force might delete "
            "others: move it away, or choose another --out"
        )
    foreign = [
        name
        for name, path in sorted(_files_of(folder).items())
        if not any(fnmatch.fnmatch(name, pattern) for pattern in (FILE_LIST, ".DS_Store", *later))
        and not (path.suffix == ".npz" and is_own_zip(path))
        and not (path.suffix == ".html" and is_own_page(path))
        and (path.is_symlink() or _digest(path) not in digests)
    ]
    if foreign:
        raise InputError(
            f"{folder} also has {', '.join(foreign[:5])}{' ...' * (len(foreign) > 5)}, not written by "
            f"{writer}, or changed since; --force would delete it: move it away first"
        )


FILE_LIST = ".idr_files.json"
"""The file in which `whole_folder` lists the files of a folder with their SHA-256 digests."""


def _files_of(folder: Path) -> dict[str, Path]:
    """Returns the files and links at any depth by relative name."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _read_list(folder: Path) -> set[str] | None:
    try:
        return {str(digest) for digest in read_json(folder / FILE_LIST)["files"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


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
            digests = {name: _digest(path) for name, path in sorted(_files_of(temporary).items())}
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
