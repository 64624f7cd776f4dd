"""``exp_runner.py --viewer``: early errors, end with the training."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.cli import bad_input
from tests.cli.bad_input import Project

from idr.cli.shared import train_viewer
from idr.cli.train import main


def test_training_starts_the_viewer_and_ends_it(project: Project, monkeypatch, warm_python: Path) -> None:
    started = []
    popen = subprocess.Popen

    def start(*arguments, **options):
        process = popen(*arguments, **options)
        started.append(process)
        return process

    monkeypatch.setattr(sys, "executable", str(warm_python))
    monkeypatch.setattr(train_viewer.subprocess, "Popen", start)
    assert main([*bad_input.TRAIN, "--viewer", "0"]) == 0
    (viewer,) = started
    assert viewer.returncode is not None  # it does not outlive training
    assert list(Path(project.root).rglob("ModelParameters/*.pth"))


def test_port_in_use_is_reported_before_anything_is_written(project: Project, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([*bad_input.TRAIN, "--viewer", str(taken.getsockname()[1])]) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert not list(Path(project.root).rglob("checkpoints"))
