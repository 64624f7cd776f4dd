"""Trained intrinsics from the conf to evaluation, export and report, through the command lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.training import tiny

import idr.conf.files
import idr.runs.folders
from idr.cli import evaluate, export_cameras, report, train

CAMERAS = ("poses=se3", "frozen=first", "focal=shared", "learning_rate_intrinsics=0.05")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run whose focal length was trained; view 4 was held out."""
    folder = tmp_path_factory.mktemp("intrinsics")
    tiny.write_scene(folder / "data")
    tiny.write_conf(folder / "tiny.conf", dataset="holdout = [4]")
    flags = [word for key in CAMERAS for word in ("--set", f"train.cameras.{key}")]
    assert train.main(tiny.command(folder, "--train_cameras", *flags)) == 0
    return folder


@pytest.fixture
def run_flags(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for module in (idr.conf.files, idr.runs.folders):
        monkeypatch.setattr(module, "project_root", lambda: root)
    monkeypatch.chdir(root)
    return ["--conf", "tiny.conf", "--data_root", str(root / "data"), "--exps_folder", str(root / "exps"),
            "--device", "cpu"]  # fmt: skip


def trained_factor(root: Path) -> float:
    table = tiny.parts_of(tiny.only_run(root / "exps"))["CameraState"]["intrinsics"]["focal"]
    return float(np.exp(float(table[0, 0])))


def test_training_records_the_factor(root: Path) -> None:
    last = tiny.metrics_rows(tiny.only_run(root / "exps"))[-1]
    assert float(last["focal_factor"]) == pytest.approx(trained_factor(root), rel=1e-5) != 1


def test_evaluation_reports_focal_lengths(
    root: Path, run_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*run_flags, "--resolution", "8", "--eval_cameras", "--eval_rendering"]) == 0
    out = capsys.readouterr().out
    assert "CAMERAS EVALUATION" in out
    focal = 18 * trained_factor(root)
    assert f"INTRINSICS: focal length given = 18.00 ; trained = {focal:.2f} ; factor mean = " in out
    (results,) = root.glob("evals/*/results.json")
    trained = np.array(json.loads(results.read_text())["intrinsics"]["trained"])
    np.testing.assert_allclose(trained[:, [0, 1], [0, 1]], focal, rtol=1e-6)  # float32


def test_export_holds_trained_intrinsics_of_all_views(root: Path, run_flags: list[str]) -> None:
    out = root / "exported"
    assert export_cameras.main([*run_flags, "--out", str(out), "--formats", "transforms"]) == 0
    frames = json.loads((out / "transforms.json").read_text())
    assert frames["fl_x"] == pytest.approx(18 * trained_factor(root), rel=1e-6)  # one for all, held-out too
    assert frames["cx"] == pytest.approx(7.5 + 0.5) and len(frames["frames"]) == 5


def test_report_shows_focal_lengths_before_and_after(root: Path, run_flags: list[str]) -> None:
    pytest.importorskip("plotly", reason="reports are drawn by plotly")
    page = root / "page.html"
    assert report.main([*run_flags, "--out", str(page), "--views", "1", "--resolution", "8"]) == 0
    text = page.read_text()
    cells = re.findall(r"<td>(.*?)</td>", text)
    label = cells.index("cameras: focal length given, mean (least, greatest), pixels")
    assert "18.00 (18.00, 18.00)" in cells[label + 1 : label + 3]
    assert f"<td>{18 * trained_factor(root):.2f} (" in text


def test_keys_without_the_flag_are_reported(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = tiny.command(root, "--set", "train.cameras.focal=shared", nepoch=0)
    flags[flags.index("--exps_folder") + 1] = str(tmp_path)
    assert train.main(flags) == 0
    assert "train.cameras has no effect without --train_cameras" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("poses=euler", "train.cameras.poses: got 'euler' (a text); expected one of quaternion, se3, orbit"),
        ("focal=true", "train.cameras.focal: got True"),
        ("fokal=shared", "train.cameras.fokal: unknown key (did you mean focal?)"),
        ("frozen=all", "nothing of the cameras is left to train"),
        ("learning_rate_intrinsics=0", "learning_rate_intrinsics = 0.0: expected a learning rate"),
    ],
)  # fmt: skip
def test_mistakes_in_the_block_give_one_message(
    root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, message: str
) -> None:
    flags = tiny.command(root, "--train_cameras", "--set", f"train.cameras.{setting}")
    flags[flags.index("--exps_folder") + 1] = str(tmp_path / "exps")
    assert train.main(flags) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "exps").exists()
