"""Compiling loops with and without numba; `in_threads`: each job once, errors raised, forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from idr.model.kernels import numba_support as loops
from idr.model.kernels.numba_support import compiled, has_numba, in_threads


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_job_runs_once_in_two_threads() -> None:
    done, seen, both = [], set(), threading.Barrier(2, timeout=10)

    def task(job: int) -> None:
        if job < 2:
            both.wait()  # each needs a thread of its own
        done.append(job)
        seen.add(threading.get_ident())

    in_threads(task, [(job,) for job in range(20)])
    assert sorted(done) == list(range(20)) and len(seen) == 2


@pytest.mark.parametrize("in_main", [True, False])
def test_an_error_is_raised(in_main: bool) -> None:
    both = threading.Barrier(2, timeout=10)

    def task(job: int) -> None:
        both.wait()
        if (threading.current_thread() is threading.main_thread()) == in_main:
            raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job"):
        in_threads(task, [(0,), (1,)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_makes_its_own_threads() -> None:
    in_threads(lambda job: None, [(0,), (1,)])  # starts the parent's threads
    child = os.fork()
    if child == 0:
        done: list[int] = []
        in_threads(done.append, [(0,), (1,), (2,)])
        os._exit(0 if sorted(done) == [0, 1, 2] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("broken", [False, True])
def test_numba_that_cannot_be_imported(
    broken: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str) -> None:
        raise ImportError("Numba needs NumPy 2.3 or less. Got NumPy 9.0.")

    monkeypatch.setattr(loops.importlib.util, "find_spec", lambda name: object() if broken else None)
    monkeypatch.setattr(loops.importlib, "import_module", refuse)
    has_numba.cache_clear()
    try:
        with caplog.at_level("WARNING", logger="idr"):
            assert not has_numba() and not has_numba()
            assert compiled()(refuse) is refuse  # loops can be defined, and no kernel offers them
    finally:
        has_numba.cache_clear()
    warning = ["numba is installed and cannot be used: Numba needs NumPy 2.3 or less. Got NumPy 9.0."]
    assert [record.message for record in caplog.records] == (warning if broken else [])


def test_a_loop_that_cannot_be_cached_is_compiled() -> None:
    numba = pytest.importorskip("numba", reason="the extra idr-surface[fast] is not installed")
    made: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", made)  # has no file, hence no cache
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(made["double"])
    assert compiled()(made["double"])(21) == 42
