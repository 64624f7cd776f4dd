"""What a command may replace."""

import os
import stat
from pathlib import Path

import pytest

from idr.errors import InputError, OutputError
from idr.files import whole_folder, write_text_atomic
from idr.replacing import PAGE_MARK, check_file, check_replaceable, is_own_page, is_own_zip


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
