"""What a command may replace: files that an earlier command of ours wrote, and others only when told so.

All checks come before the long work of a command.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from idr.errors import InputError
from idr.files import FILE_LIST, digest, files_of, output_errors, read_json


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
    with tempfile.TemporaryFile(dir=folder):  # also fails where permissions do not tell: a read-only disk
        pass


def check_writable(*files: Path) -> None:
    """Refuses files that cannot be written, before the work starts; makes nothing.

    Raises:
        OutputError: A folder has the name, or the nearest existing folder admits no new file.
    """
    for file in files:
        with output_errors(file):
            if file.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            _check_parent(file)


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
        for name, path in sorted(files_of(folder).items())
        if not any(fnmatch.fnmatch(name, pattern) for pattern in (FILE_LIST, ".DS_Store", *later))
        and not (path.suffix == ".npz" and is_own_zip(path))
        and not (path.suffix == ".html" and is_own_page(path))
        and (path.is_symlink() or digest(path) not in digests)
    ]
    if foreign:
        raise InputError(
            f"{folder} also has {', '.join(foreign[:5])}{' ...' * (len(foreign) > 5)}, not written by "
            f"{writer}, or changed since; --force would delete it: move it away first"
        )


def _read_list(folder: Path) -> set[str] | None:
    try:
        return {str(digest) for digest in read_json(folder / FILE_LIST)["files"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
