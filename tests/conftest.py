"""Set before anything else: one torch thread a test process, since tests run side by side on few cores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from idr.model.tracing import common
from tests.process import process_left_as_it_was

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _process_left_as_it_was() -> Iterator[None]:
    """Tests call commands in-process; none may find what another left."""
    with process_left_as_it_was():
        yield


@pytest.fixture
def reads_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracers' code for devices on which the host has to wait for a value."""
    monkeypatch.setattr(common, "CPU_TYPES", frozenset())
