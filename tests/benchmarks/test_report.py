"""`benchmarks/report.py`: numbers equal those of the files, and estimates are marked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"machine": "Some CPU", "cores": 2, "threads": 1, "torch": "2.9"}


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def mesh_row(resolution: int, whole: bool) -> dict[str, object]:
    return {
        "resolution": resolution, "dense_timed_whole": whole, "dense_seconds": 12.34, "sparse_seconds": 1.26,
        "dense_evaluations": 1234567, "sparse_evaluations": 4321,
    }  # fmt: skip


def test_page_has_the_numbers_and_marks_estimates(tmp_path: Path) -> None:
    mesh = {**MACHINE, "network": "8 x 512", "rows": [mesh_row(64, True), mesh_row(512, False)]}
    render = {**MACHINE, "pixels": 200.0, "ways": {"published": {"seconds": 3.0, "evaluated": 500.0}}}
    seconds = {"seconds": {"whole step": 2.5}, "seconds_of_tracing": 1.5}
    step = {**MACHINE, "rays": 512}
    step["strategies"] = {"published": {**seconds, "evaluations_per_ray_of_tracing": 7.125}}
    files = []
    for name, result in (("step", step), ("render", render), ("mesh", mesh)):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(result))
    done = report(*files, "--out", tmp_path / "page.md")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| published | 2.500 | 1.500 | 7.12 |" in lines
    assert "| published | 3.00 | 2.50 |" in lines
    assert "| 64 | 12.3 | 1.3 | 1,234,567 | 4,321 |" in lines
    assert "| 512 | ~12.3 | 1.3 | 1,234,567 | 4,321 |" in lines
    assert lines.count("Some CPU, 2 cores, 1 threads, torch 2.9.") == 3


def test_an_unknown_file_is_refused_and_the_page_is_kept(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.json"
    page.write_text("before")
    other.write_text("{}")
    done = report(other, "--out", page)
    assert done.returncode == 2
    assert "expected results of train_step" in done.stderr
    assert page.read_text() == "before"


def test_scaling_is_reported_and_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plots

    row = {"rays": 512, "published_timed_whole": False, "published_seconds": 4.0, "accelerated_seconds": 0.5}
    result = {**MACHINE, "scaling": {"rays": [row, {**row, "rays": 1024}]}}
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps(result))
    assert report(file, "--out", tmp_path / "page.md").returncode == 0
    assert "| 512 | ~4.000 | 0.500 | ~8.0 |" in (tmp_path / "page.md").read_text().splitlines()
    assert plots.panels(result) == {
        "rays": {"published": ([512, 1024], [4.0, 4.0]), "accelerated": ([512, 1024], [0.5, 0.5])}
    }
    assert plots.draw(result, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    assert not plots.draw({**MACHINE, "limit": True}, tmp_path / "limit.png")


def test_operations_of_products_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import limit

    layer, x = torch.nn.Linear(5, 7), torch.ones(11, 5, requires_grad=True)
    with limit.ProductRecorder() as recorder:
        layer(x).sum().backward()
    assert recorder.flops == 3 * 2 * 11 * 5 * 7  # forward, gradients of input and weight
