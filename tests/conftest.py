"""Fixtures of all tests. One torch thread per test process, since tests run in parallel on few cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from idr.model.tracing import common
from tests.process import process_left_as_it_was

torch.set_num_threads(1)


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
