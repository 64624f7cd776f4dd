"""`benchmarks/fast.py`: times of checkpoints, cached curves, comparison, and invalid input."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import pytest

from idr.runs.folders import CheckpointFolder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fast

    return fast


def test_time_of_a_checkpoint_is_that_of_its_last_file(fast, tmp_path: Path) -> None:
    times = {"ModelParameters/10.pth": 100, "manifests/10.json": 130, "TrainerState/10.pth": 120}
    for name, seconds in {**times, "manifests/20.json": 900}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert fast.saved_at(CheckpointFolder(tmp_path), "10") == 130


@pytest.mark.parametrize("clock", ["minutes", "processor_minutes"])
def test_plot_of_curves_skips_missing_values(fast, tmp_path: Path, clock: str) -> None:
    import plots

    rows = [{clock: 1.0, "psnr_holdout": 20.0}, {clock: 2.0, "psnr_holdout": 21.0, "chamfer": 0.01}]
    result = {"machine": "Some CPU", "threads": 1, "torch": "2.9", "curves": {"fast": {"rows": rows}}}
    assert plots.draw(result, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_entries_have_overrides(fast) -> None:
    entry = fast.parse_entry("./confs/demo.conf,model.ray_tracer.strategy=accelerated,train.num_pixels=8=12")
    assert entry.conf == "./confs/demo.conf" and entry.epochs == 12
    assert entry.overrides == ("model.ray_tracer.strategy=accelerated", "train.num_pixels=8")
    assert entry.label == "demo, strategy=accelerated, num_pixels=8"
    assert fast.parse_entry("./confs/fast.conf=30").label == "fast"
    assert fast.parse_entry("./confs/fast.conf,loss.patch.weight=0.5=30").label == "fast, weight=0.5"


@pytest.mark.parametrize("text", ["./confs/fast.conf", "a.conf=x", "=3", "a.conf,b=3", "a.conf,=3"])
def test_invalid_entries_are_refused(fast, text: str) -> None:
    with pytest.raises(ValueError, match="expected a conf, optional overrides and the number of epochs"):
        fast.parse_entry(text)


def test_a_curve_with_the_same_arguments_is_cached(fast, monkeypatch, tmp_path: Path) -> None:
    calls = []
    monkeypatch.setattr(fast, "curve", lambda entry, arguments, out: calls.append(entry) or {"rows": []})
    entry, same = fast.parse_entry("a.conf=3"), argparse.Namespace(seed=0, confs=["a.conf=3"])
    for arguments in (same, argparse.Namespace(seed=0, confs=[]), argparse.Namespace(seed=1, confs=[])):
        assert fast.cached_curve(entry, arguments, tmp_path) == {"rows": []}
    assert len(calls) == 2
    fast.cached_curve(fast.parse_entry("a.conf,b=1=3"), argparse.Namespace(seed=1), tmp_path)
    assert len(calls) == 3


def test_comparison_uses_the_first_checkpoint_with_the_psnr(fast, capsys: pytest.CaptureFixture[str]) -> None:
    def curve(*rows: tuple[float, float]) -> dict:
        times = ({"minutes": 2 * t, "processor_minutes": t, "psnr_holdout": psnr} for t, psnr in rows)
        return {"rows": list(times)}

    curves = {
        "slow": curve((5, 19.0), (10, 20.0)),
        "quick": curve((0.5, 19.9), (1, 20.5)),
        "poor": curve((1, 9)),
    }
    fast.compare_times(curves)
    printed = capsys.readouterr().out
    assert "quick: 2.00 (1.00), 10.0 times sooner (10.0)" in printed and "poor: not reached" in printed


def test_conf_without_epochs_is_refused(tmp_path: Path, warm_python: Path) -> None:
    command = [str(warm_python), str(BENCHMARKS / "fast.py"), "--confs", "./confs/fast.conf"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected a conf, optional overrides and the number of epochs" in done.stderr
