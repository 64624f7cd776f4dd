"""``idr photos``: refused input, and steps that are repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from idr.cli.photos.command import STEPS, main
from idr.cli.photos.journal import Journal, files_state, fingerprint


def missing(root: Path) -> list[str]:
    return [str(root / "nowhere")]


def empty(root: Path) -> list[str]:
    (root / "photos").mkdir()
    return [str(root / "photos")]


def inside(root: Path) -> list[str]:
    (root / "photos").mkdir()
    return [str(root / "photos"), "--out", str(root / "photos" / "results")]


def with_flags(*flags: str) -> Callable[[Path], list[str]]:
    def make(root: Path) -> list[str]:
        (root / "photos").mkdir()
        return [str(root / "photos"), *flags]

    return make


WRONG = {
    "folder missing": (missing, r"no folder .*nowhere; expected photographs"),
    "no photographs": (empty, r"photos has no known format; .*photographs alone"),
    "results among photographs": (inside, r"lies in .*expected a folder outside"),
    "no time": (with_flags("--max_minutes", "0"), r"--max_minutes 0: expected a number of minutes above 0"),
    "no epochs": (with_flags("--nepoch", "0"), r"--nepoch 0: expected 1 or more"),
    "no conf": (with_flags("--conf", "./confs/phtos.conf"), r"no conf at .*did you mean photos.conf"),
    "no such key": (with_flags("--set", "train.num_pixel=9"), r"--set train.num_pixel.*mean num_pixels"),
    "no such value": (with_flags("--set", "model.rendering_network.mode=x"), r"rendering_network.mode.* x"),
    "no device": (with_flags("--device", "cuda:77"), r"--device cuda:77: this machine has"),
    "no mesh": (with_flags("--resolution", "1"), r"--resolution 1: expected 2 or more"),
    "no such finding": (with_flags("--despite", "x"), r"--despite x: expected one of .*wrong-axes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_refused_and_leaves_nothing(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = WRONG[what]
    arguments = make(tmp_path)
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "results")]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed) and printed.count("\n") == 1, printed
    assert not list(tmp_path.rglob("steps"))


def test_a_folder_that_cannot_be_written_is_refused_before_the_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("kept")
    assert main([str(tmp_path / "photos"), "--out", str(tmp_path / "file" / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and re.search(r"cannot write .*mesh.glb: .*a file stands where", printed.err)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_result_counts_only_with_equal_inputs_and_existing_outputs(tmp_path: Path) -> None:
    journal, made = Journal(tmp_path, STEPS), tmp_path / "mesh.glb"
    made.write_bytes(b"1")
    journal.finish("mesh", fingerprint("a"), {"x": 1})
    assert journal.result("mesh", fingerprint("a"), [made]) == {"x": 1}
    assert journal.result("mesh", fingerprint("b"), [made]) is None
    made.unlink()
    assert journal.result("mesh", fingerprint("a"), [made]) is None


def test_a_step_is_forgotten_with_all_later_ones(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STEPS)
    for step in STEPS:
        journal.finish(step, "i", {})
    journal.forget_from("train")
    assert [step for step in STEPS if journal.result(step, "i") is not None] == [
        "import",
        "doctor",
        "speed_trial",
    ]


def test_a_truncated_record_is_ignored(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STEPS)
    journal.finish("train", "i", {})
    record = next(tmp_path.rglob("train.json"))
    record.write_text(record.read_text()[:10])
    assert journal.result("train", "i") is None


def test_a_changed_photograph_changes_the_state(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    before = files_state(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"1")
    assert files_state(tmp_path) == before
    (tmp_path / "a.jpg").write_bytes(b"12")
    assert files_state(tmp_path) != before
