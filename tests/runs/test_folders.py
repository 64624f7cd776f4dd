from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest
import torch

from idr.conf.files import project_root
from idr.errors import MissingInputError, OutputError
from idr.runs import folders as workspace
from idr.runs.folders import CheckpointFolder, create_run, evals_folder, find_run, newest_run, run_name


def put_published(run: Path, *names: str) -> Path:
    folder = run / "checkpoints" / "ModelParameters"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        epoch = 0 if name == "latest" else int(name)
        torch.save({"epoch": epoch, "model_state_dict": {}}, folder / f"{name}.pth")
    return run


@pytest.mark.parametrize(
    ("expname", "suffix", "scan_id", "name"),
    [
        ("dtu", "", None, "dtu"),
        ("dtu", "", -1, "dtu"),
        ("dtu", "", 65, "dtu_65"),
        ("dtu", "", 0, "dtu_0"),
        ("dtu", "_night", 65, "dtu_night_65"),
        ("dtu", "2", -1, "dtu2"),
    ],
)
def test_run_name(expname: str, suffix: str, scan_id: int | None, name: str) -> None:
    assert run_name(expname, suffix, scan_id) == name


def test_new_runs_are_named_by_time_and_never_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2020, 12, 31, 23, 59, 59)

    monkeypatch.setattr(workspace, "datetime", Clock)
    runs = [create_run(tmp_path / "exps", "dtu_65") for _ in range(3)]
    assert [run.name for run in runs] == ["2020_12_31_23_59_59", "2021_01_01_00_00_00", "2021_01_01_00_00_01"]
    assert all(run.parent == tmp_path / "exps" / "dtu_65" for run in runs)
    assert sorted(entry.name for entry in runs[0].iterdir()) == ["checkpoints", "plots"]


@pytest.mark.parametrize("before", ["2999_12_31_23_59_59", "2999_05_06_07_08_09"])
def test_a_clock_set_back_leaves_the_new_run_the_latest(tmp_path: Path, before: str) -> None:
    put_published(tmp_path / "exps" / "dtu" / before, "100")
    (tmp_path / "exps" / "dtu" / "2020").mkdir()
    new = put_published(create_run(tmp_path / "exps", "dtu"), "1")
    assert new.name > before and find_run(tmp_path / "exps", "dtu") == new
    assert newest_run(tmp_path / "exps") == new == newest_run(tmp_path / "exps", "dtu")


def test_what_a_killed_first_save_leaves_is_no_run(tmp_path: Path) -> None:
    """It is ignored by all that look for the latest run, whatever was changed last."""
    good = put_published(tmp_path / "exps" / "dtu" / "2020_01_01_00_00_00", "100")
    litter = create_run(tmp_path / "exps", "dtu")
    manifests = litter / "checkpoints" / "manifests"
    manifests.mkdir()
    (manifests / "unfinished.json").write_text('["0"]')
    (litter / "checkpoints" / "ModelParameters").mkdir()
    (litter / "checkpoints" / "ModelParameters" / ".0.pth.0123abcd.tmp").write_bytes(b"half")
    assert find_run(tmp_path / "exps", "dtu") == good == newest_run(tmp_path / "exps")
    assert CheckpointFolder(litter / "checkpoints").names() == []


def test_new_run_by_the_real_clock(tmp_path: Path) -> None:
    assert re.fullmatch(r"\d{4}(_\d\d){5}", create_run(tmp_path, "x").name)


def test_unwritable_exps_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "exps").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*exps.*a file stands where a folder is needed"):
        create_run(tmp_path / "exps", "dtu")


def test_latest_run_is_the_last_in_name_order_that_holds_a_checkpoint(tmp_path: Path) -> None:
    put_published(tmp_path / "dtu_65" / "2020", "2000")
    put_published(tmp_path / "dtu_65" / "2020_11_01_10_00_00", "100", "latest")
    create_run(tmp_path, "dtu_65")  # newer, and empty
    (tmp_path / "dtu_65" / "zzz.txt").write_text("no run")
    assert find_run(tmp_path, "dtu_65").name == "2020_11_01_10_00_00"
    assert find_run(tmp_path, "dtu_65", checkpoint="2000").name == "2020"
    assert find_run(tmp_path, "dtu_65", checkpoint=100).name == "2020_11_01_10_00_00"
    assert find_run(tmp_path, "dtu_65", timestamp="2020", checkpoint=2000).name == "2020"


def test_errors_list_the_existing_runs(tmp_path: Path) -> None:
    put_published(tmp_path / "dtu_65" / "2020", "2000")
    (tmp_path / "empty_1").mkdir()
    for arguments, message in [
        ((tmp_path / "no", "dtu_65"), r"there is no folder .*no; train first, or give --exps_folder"),
        ((tmp_path, "dtu_66"), r"no run dtu_66 in .* \(did you mean dtu_65\?\); runs there: dtu_65, empty_1"),
        ((tmp_path, "dtu_65", "2021"), r"no run 2021 in .*; runs there: 2020; .*--timestamp"),
        ((tmp_path, "dtu_65", "2020", "100"), r"checkpoint 100 .* does not exist; .*there: 2000; choose"),
        ((tmp_path, "dtu_65", "latest", "100"), r"no run in .* holds checkpoint 100; runs there: 2020"),
        ((tmp_path, "empty_1"), r"no run in .* holds a checkpoint; it is empty; train first"),
    ]:
        with pytest.raises(MissingInputError, match=message):
            find_run(*arguments)


def test_a_run_with_an_incomplete_first_save_is_not_the_latest(tmp_path: Path) -> None:
    put_published(tmp_path / "dtu" / "2020", "100")
    cut = put_published(tmp_path / "dtu" / "2021", "0")
    (cut / "checkpoints" / "manifests").mkdir()  # ours, and no manifest in it
    assert find_run(tmp_path, "dtu").name == "2020"
    with pytest.raises(MissingInputError, match="checkpoint 0 .* is incomplete: its save was cut short"):
        CheckpointFolder(cut / "checkpoints").resolve(0)


def test_evals_folder() -> None:
    assert evals_folder("dtu_65") == project_root() / "evals" / "dtu_65"
    assert evals_folder("dtu_65", project_root() / "exps") == evals_folder("dtu_65")
    assert evals_folder("dtu_65", Path("/data/a/exps")) == Path("/data/a/evals/dtu_65")
    assert evals_folder("dtu_65", Path("/data/a/exps"), "scores") == project_root() / "scores" / "dtu_65"
    assert evals_folder("dtu_65", None, "/scores") == Path("/scores/dtu_65")
