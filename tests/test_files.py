from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from idr.errors import InputError, MissingInputError, OutputError
from idr.files import (
    make_folder,
    output_errors,
    read_json,
    temporary_files,
    write_atomic,
    write_text_atomic,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_text_atomic(path, "erste Fassung: ä\n")
    assert path.read_bytes() == "erste Fassung: ä\n".encode()
    write_atomic(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.txt"]


def test_file_is_seekable_and_as_open_as_others(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"0123456789")
        file.seek(2)
        file.write(b"ab")

    write_atomic(tmp_path / "x", write)
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "x").read_bytes() == b"01ab456789"
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x", "plain")]
    assert modes[0] == modes[1]


def test_the_old_content_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def write(file: BinaryIO) -> None:
        file.write(b"new, and long enough")
        file.flush()
        assert path.read_text() == "old"

    write_atomic(path, write)
    assert path.read_text() == "new, and long enough"


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), InputError("bad"), MissingInputError("gone"), KeyboardInterrupt()]
)
def test_failing_writer_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        write_atomic(path, write)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.ENOSPC,
            "no space left on device; the file that was there is unchanged; free some space there",
        ),
        (
            errno.EROFS,
            "read-only file system; the file that was there is unchanged; that file system is read-only",
        ),
        (errno.EACCES, "permission denied; the file that was there is unchanged; you may not write there"),
        (errno.EIO, "input/output error; the file that was there is unchanged; check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_refusals_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, message: str
) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OutputError) as error:
            write_text_atomic(path, "new")
    assert str(error.value).startswith(f"cannot write {path}: {message}")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OutputError, match="a folder stands where a file is to be written"):
        write_text_atomic(tmp_path / "x", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    for folder in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            make_folder(folder)


def test_message_without_an_old_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^cannot write .*: no space left on device; free some space"):
        with output_errors(tmp_path / "x"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_leftovers_of_killed_writers_are_recognized(tmp_path: Path) -> None:
    for name in (".x.pth.0123abcd.tmp", "x.tmp", ".x.tmp", ".x.pth.0123ABCD.tmp", "x.pth"):
        (tmp_path / name).write_text("")
    assert [entry.name for entry in temporary_files(tmp_path)] == [".x.pth.0123abcd.tmp"]
    assert temporary_files(tmp_path / "none") == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_any_unicode(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"name": "Füße", "number": 3}'.encode(encoding))
    assert read_json(path) == {"name": "Füße", "number": 3}


def test_integers_beyond_float_are_infinite_and_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f"[1{'0' * 400}, -1{'0' * 5000}, 12345678901234567890]")
    assert read_json(path) == [float("inf"), -float("inf"), 12345678901234567890]
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError):
        read_json(path)
