"""Fixtures of all tests. One torch thread per test process, since tests run in parallel on few cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from idr.model.tracing import common
from idr.preprocess import visual_hull
from tests import warm_python as warm
from tests.process import process_left_as_it_was

torch.set_num_threads(1)
COARSE_CELLS = 60_000
"""Cells of the visual hull of synthetic scenes: ten times faster than the default, with changes of the sphere
below 0.1 %."""
FULL_CELLS = visual_hull.CELLS_BUDGET


@pytest.fixture(scope="session", autouse=True)
def _fast_hulls_and_files() -> Iterator[None]:
    """Coarser visual hulls, and no waiting for the disk, which protects files from a loss of power alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_hull, "CELLS_BUDGET", COARSE_CELLS)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def full_hulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The visual hull's default number of cells, for real scenes."""
    monkeypatch.setattr(visual_hull, "CELLS_BUDGET", FULL_CELLS)


@pytest.fixture(autouse=True)
def _process_left_as_it_was() -> Iterator[None]:
    """Undoes what a command that a test runs in this process changes in it."""
    with process_left_as_it_was():
        yield


@pytest.fixture(scope="session")
def scene_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny scene in ``data`` and its conf ``tiny.conf``; read only."""
    from tests.training import tiny

    root = tmp_path_factory.mktemp("tiny")
    tiny.write_scene(root / "data")
    tiny.write_conf(root / "tiny.conf")
    return root


@pytest.fixture
def reads_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracers' code for devices on which the host has to wait for a value."""
    monkeypatch.setattr(common, "CPU_TYPES", frozenset())


@pytest.fixture(scope="session")
def warm_python() -> Iterator[Path]:
    """An interpreter whose processes need not import the libraries."""
    with warm.warm_python() as interpreter:
        yield interpreter
