"""``exp_runner.py --report``."""

from __future__ import annotations

from pathlib import Path

from tests.cli import bad_input
from tests.cli.bad_input import Project

from idr.cli.train import main


def test_training_with_the_flag_ends_with_a_report(project: Project) -> None:
    assert main([*bad_input.TRAIN, "--report"]) == 0
    (page,) = Path(project.root).rglob("report.html")
    assert (page.parent / "checkpoints").is_dir() and "<h2>Training</h2>" in page.read_text()


def test_training_without_the_flag_writes_no_report(trained_project: Project) -> None:
    assert not list(Path(trained_project.root).rglob("report.html"))
