from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from idr.errors import InputError, MissingInputError, OutputError
from idr.files import (
    PAGE_MARK,
    check_file,
    check_replaceable,
    is_own_page,
    is_own_zip,
    make_folder,
    output_errors,
    temporary_files,
    whole_folder,
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


def test_only_own_files_are_replaced_without_force(tmp_path: Path) -> None:
    own, foreign = tmp_path / "report.html", tmp_path / "thesis.html"
    own.write_text(f"<!doctype html><html><head>{PAGE_MARK}")
    foreign.write_text("<!doctype html><html><head><meta name=generator content=other>")
    for path in (own, tmp_path / "new" / "deep" / "report.html"):
        check_file(path, False, is_own_page)
    with pytest.raises(InputError, match=r"thesis\.html is there already: add --replace .* another --page"):
        check_file(foreign, False, is_own_page, "--page", "--replace")
    check_file(foreign, True, is_own_page)


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "fifo", "device"])
def test_what_is_no_file_is_not_replaced_even_with_force(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "x", tmp_path / "target"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path.symlink_to(target)
    if kind == "link":
        target.write_text("mine")
    with pytest.raises(InputError, match="choose another --out"):
        check_file(path, True, lambda path: True)
    assert not is_own_page(path) and not is_own_zip(path)
    if kind in ("fifo", "device"):
        with pytest.raises(OutputError, match="no regular file"):
            write_text_atomic(path, "")
        assert not path.is_file() and path.exists()
    assert kind != "link" or target.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "reason"), [("file/x", "a file stands where a folder is needed"), ("n" * 300, "a shorter name")]
)
def test_places_that_cannot_be_written_are_found_early(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=reason):
        check_file(tmp_path / name, True)


def make_scene(folder: Path) -> Path:
    with whole_folder(folder) as unfinished:
        (unfinished / "image").mkdir()
        (unfinished / "image" / "0.png").write_text("picture")
        (unfinished / "cameras.npz").write_text("cameras")
    return folder


def check_scene(folder: Path, overwrite: bool = True) -> None:
    check_replaceable(folder, overwrite, lambda path: True, ["check/*.png"], "this command")


def test_a_scene_of_ours_is_replaced_with_force_only(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "scan1")
    with pytest.raises(InputError, match="add --force"):
        check_scene(scene, overwrite=False)
    (scene / "check").mkdir()
    (scene / "check" / "check_0.png").write_text("drawn later")
    (scene / "cameras_backup.npz").write_text("cameras")  # a copy of what we wrote
    (scene / "report.html").write_text(PAGE_MARK)
    check_scene(scene)


@pytest.mark.parametrize(
    "change", ["image/mine.png", "image/0.png", "cameras.npz", "link", ".idr_files.json"]
)
def test_force_refuses_to_delete_what_the_command_did_not_write(tmp_path: Path, change: str) -> None:
    scene = make_scene(tmp_path / "scan1")
    if change == "link":
        (scene / "link").symlink_to(scene / "cameras.npz")
    elif change.startswith("."):
        (scene / change).unlink()  # of a version that kept no list
    else:
        (scene / change).write_text("mine")
    with pytest.raises(InputError, match="move it away") as refusal:
        check_scene(scene)
    assert change in str(refusal.value)


def test_a_folder_is_as_open_as_others(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        scene = make_scene(tmp_path / "scan1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(scene.stat().st_mode) == 0o700
    assert stat.S_IMODE(make_scene(tmp_path / "scan2").stat().st_mode) == 0o777 & ~before
