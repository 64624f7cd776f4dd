from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training import tiny


@pytest.fixture(scope="session")
def scene_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scene below ``data`` and its conf ``tiny.conf``; nobody writes into it."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.write_scene(root / "data")
    tiny.write_conf(root / "tiny.conf")
    return root


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """One thread, and nothing left of what the command line sets for its process."""
    log = logging.getLogger("idr")
    handlers, level, propagate, threads = log.handlers[:], log.level, log.propagate, torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
