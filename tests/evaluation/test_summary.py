"""The table of all scans: scores, notes, means."""

from __future__ import annotations

import csv
import json
import os

import pytest

import idr.conf.files
import idr.runs.folders
from idr.cli.summary import main


@pytest.fixture
def evals(tmp_path, monkeypatch):
    for module in (idr.conf.files, idr.runs.folders):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.conf").write_text("train { expname = skull }\n")
    return tmp_path / "evals"


def put(evals, scan, psnr, chamfer=None, protocol="dtu", **more):
    folder = evals / f"skull_{scan}"
    folder.mkdir(parents=True)
    record = {"epoch": 9, "scan_id": scan, "surface": {"file": "s_9.ply"}, **more}
    record["rendering"] = {"psnr_mean": psnr, "ssim_mean": 0.5, "lpips_mean": None, "iou_mean": 0.9}
    (folder / "s_9.ply").write_text("mesh")
    (folder / "results.json").write_text(json.dumps(record))
    if chamfer is not None:
        key = "overall" if protocol == "dtu" else "chamfer"
        scores = {"protocol": protocol, "accuracy": 1.0, "completeness": 2.0, key: chamfer}
        (folder / "s_9_scores.json").write_text(json.dumps(scores))
    return folder


def test_all_scans_and_their_means(evals, capsys):
    cameras = {"rotation_degrees_mean": 0.25, "translation_mean": 3.0}
    put(evals, 110, 21.0, 0.5, lpips_error="no network",
        rendering_held_out={"psnr_mean": 18.0, "exposure": "fitted per view"})  # fmt: skip
    put(evals, 65, 20.0, 1.5, cameras=cameras)
    put(evals, 7, 1.0).rename(evals / "skullother_7")
    assert main(["--conf", "a.conf"]) == 0
    out = capsys.readouterr().out
    assert "| 65 | 9 | 20.00 | 0.5000 | 0.9000 |  | 1 | 2 | 1.5 | 0.25 | 3.00 |" in out
    assert "| mean |  | 20.50 | 0.5000 | 0.9000 |  | 1 | 2 | 1 |  |  |" in out  # no mean of some scans only
    assert "WARNING: scan 110: held-out image scores with exposures fitted per view" in out
    assert "WARNING: scan 110: LPIPS was not measured: no network" in out
    record = json.loads((evals / "skull_summary.json").read_text())
    assert [row["scan"] for row in record["scans"]] == [65, 110]
    assert record["mean"]["psnr_training"] == 20.5 and record["mean"]["psnr_held_out"] is None
    rows = list(csv.DictReader((evals / "skull_summary.csv").open()))
    assert [row["scan"] for row in rows] == ["65", "110", "mean"]
    assert rows[1]["psnr_held_out"] == "18.0" and rows[0]["psnr_held_out"] == ""
    assert (evals / "skull_summary.md").read_text() in out + "\n"
    assert main(["--conf", "a.conf", "--scans", "110"]) == 0
    assert "| mean |  | 21.00 |" in capsys.readouterr().out


def test_protocols_are_not_averaged_together(evals):
    put(evals, 1, 20.0, 1.5)
    put(evals, 2, 20.0, 0.01, protocol="chamfer")
    assert main(["--conf", "a.conf"]) == 0
    record = json.loads((evals / "skull_summary.json").read_text())
    assert [row["chamfer"] for row in record["scans"]] == [1.5, 0.01]
    assert record["mean"]["chamfer"] is None and record["mean"]["psnr_training"] == 20.0


def test_scores_of_an_older_mesh_are_left_out(evals, capsys):
    folder = put(evals, 1, 20.0, 1.5)
    os.utime(folder / "s_9_scores.json", (1, 1))
    assert main(["--conf", "a.conf"]) == 0
    assert "older than its mesh" in capsys.readouterr().out
    assert json.loads((evals / "skull_summary.json").read_text())["scans"][0]["chamfer"] is None


def test_bad_input(evals, capsys):
    assert main(["--conf", "a.conf"]) == 2
    assert "run eval.py on each scan first" in capsys.readouterr().err
    folder = put(evals, 1, 20.0)
    assert main(["--conf", "a.conf", "--scans", "1", "5"]) == 2
    assert "--scans 5: not evaluated" in capsys.readouterr().err
    (folder / "results.json").write_text("[1]")
    assert main(["--conf", "a.conf"]) == 2
    assert "holds no results" in capsys.readouterr().err
    assert not (evals / "skull_summary.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"epoch": Infinity}',
        '{"epoch": 1, "rendering": {"psnr_mean": "high"}}',
        '{"epoch": 1, "rendering": {"psnr_mean": 1%s}}' % ("0" * 400),
        '{"epoch": 1, "rendering": {"psnr_mean": NaN}}',
        '{"epoch": 1, "cameras": [1]}',
        '{"epoch": 1, "surface": {"file": 7}}',
        '{"epoch": 1, "surface": {"file": "s_9.ply"}}',
    ],
)
def test_results_of_another_program(evals, capsys, text):
    folder = put(evals, 1, 20.0)
    (folder / "results.json").write_text(text)
    (folder / "s_9_scores.json").write_text('{"protocol": "dtu", "accuracy": [], "completeness": 1}')
    assert main(["--conf", "a.conf"]) == 2
    assert "again" in capsys.readouterr().err and not list(evals.glob("*.json"))
