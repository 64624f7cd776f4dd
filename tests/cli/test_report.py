"""``exp_runner.py --report``."""

from __future__ import annotations

from pathlib import Path

from tests.cli import bad_input
from tests.cli.bad_input import Project

from idr.cli.train import main


def test_training_ends_with_a_report_when_asked(project: Project) -> None:
    assert main([*bad_input.TRAIN, "--report"]) == 0
    (page,) = Path(project.root).rglob("report.html")
    assert (page.parent / "checkpoints").is_dir() and "<h2>Training</h2>" in page.read_text()


def test_training_writes_none_otherwise(trained_project: Project) -> None:
    assert not list(Path(trained_project.root).rglob("report.html"))
