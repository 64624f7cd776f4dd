"""The verdict of `benchmarks/seeds.py`, on figures with a computed answer, and on recorded runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "seeds.py"


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import seeds

    return seeds


def rows(strategy: str, psnr: list[float], chamfer: list[float]) -> list[dict]:
    return [
        {"strategy": strategy, "seed": seed, "psnr": p, "psnr_held_out": p - 1, "chamfer": c}
        for seed, (p, c) in enumerate(zip(psnr, chamfer, strict=True))
    ]


def test_worse_by_more_than_two_standard_errors(seeds) -> None:
    # Differences -1, -1.2, -0.8: mean -1, standard error 0.2 / sqrt(3).
    published = rows("published", [22.0, 23.0, 24.0], [0.006, 0.007, 0.008])
    accelerated = rows("accelerated", [21.0, 21.8, 23.2], [0.0061, 0.0068, 0.0081])
    verdict = seeds.compare(published + accelerated)
    assert verdict["psnr"]["difference"] == pytest.approx(-1)
    assert verdict["psnr"]["standard_error"] == pytest.approx(0.2 / 3**0.5)
    assert not verdict["psnr"]["not_worse"]
    assert verdict["chamfer"]["not_worse"]  # mean difference 0, within any error


def test_larger_chamfer_is_worse(seeds) -> None:
    published = rows("published", [22.0, 22.0], [0.006, 0.007])
    accelerated = rows("accelerated", [23.0, 23.1], [0.008, 0.0091])
    verdict = seeds.compare(published + accelerated)
    assert verdict["psnr"]["not_worse"] and not verdict["chamfer"]["not_worse"]


def test_no_surface_is_never_as_good(seeds) -> None:
    verdict = seeds.compare(
        rows("published", [22.0, 22.0], [0.006, 0.007]) + rows("accelerated", [22.0, 22.0], [0.006, math.nan])
    )
    assert not verdict["chamfer"]["not_worse"]


def test_only_common_seeds_are_compared(seeds) -> None:
    assert seeds.compare(rows("published", [22.0], [0.006]) + rows("accelerated", [22.0], [0.006])) == {}


def test_recorded_runs_are_not_trained_again(tmp_path: Path, warm_python: Path) -> None:
    recorded = rows("published", [22.0, 22.5], [0.006, 0.007])
    for name, runs in (("a", recorded), ("b", rows("accelerated", [22.1, 22.6], [0.006, 0.007]))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "seeds.json").write_text(json.dumps({"runs": runs}))
    argv = ["--out", str(tmp_path / "a"), "--merge", str(tmp_path / "b"), "--seeds", "0", "1"]
    done = subprocess.run(
        [warm_python, str(SCRIPT), *argv], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "| accelerated | 1 | 22.60 | 21.60 | 0.00700 |" in done.stdout
    assert "PSNR, training views (dB): published 22.25, accelerated 22.35" in done.stdout
    assert not (tmp_path / "a" / "exps").exists()
