"""Fixtures of the command-line tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli import bad_input
from tests.cli.bad_input import Project


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without runs, to be copied."""
    root = tmp_path_factory.mktemp("untrained")
    (root / "tiny.conf").write_text(bad_input.CONF)
    bad_input.write_scene(root / bad_input.SCENE)
    return root


@pytest.fixture(scope="session")
def trained(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one run of one epoch, to be copied."""
    from idr.cli.train import main

    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(untrained, root, dirs_exist_ok=True)
    with bad_input.project_at(root):
        assert main(bad_input.TRAIN) == 0
    return root


def _project(template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Project]:
    root = tmp_path / "project"
    shutil.copytree(template, root)
    with bad_input.project_at(root):
        yield Project(root, capsys)


@pytest.fixture
def project(untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Project]:
    """A copy of the project without runs."""
    yield from _project(untrained, tmp_path, capsys)


@pytest.fixture
def trained_project(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Project]:
    """A copy of the project with one run of one epoch."""
    yield from _project(trained, tmp_path, capsys)
