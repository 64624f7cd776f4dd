"""How a process gets ready to train."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from idr.cli.shared.train_flags import choose_threads, cpu_prepared
from idr.model.tracing import make_tracer
from idr.model.tracing.common import TracerConfig
from idr.model.twins import loop_threads, set_loop_threads

PAGES_OF_LAST_ROUND = """
import contextlib, ctypes, resource
from idr.cli.shared.train_flags import cpu_prepared

libc, faults = ctypes.CDLL(None), []
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
with {context}:
    for _ in range(4):
        blocks = [libc.malloc(16_000_000) for _ in range(4)]
        for block in blocks:
            ctypes.memset(block, 1, 16_000_000)
        for block in blocks:
            libc.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[3] - faults[2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory")
def test_memory_of_a_step_is_kept_for_the_next() -> None:
    kept, returned = (
        int(subprocess.check_output([sys.executable, "-c", PAGES_OF_LAST_ROUND.format(context=context)]))
        for context in ("cpu_prepared()", "contextlib.nullcontext()")
    )
    assert kept < 100
    assert returned > 10_000  # of 15,625 pages: otherwise this test shows nothing


def traced_layer(strategy: str, width: int) -> nn.Module:
    """A layer with a tracer, as far as the choice of threads looks at a model."""
    if strategy == "compiled":
        pytest.importorskip("numba", reason="the extra idr-surface[fast] is not installed")
    model = nn.Linear(width, width)
    model.ray_tracer = make_tracer(TracerConfig(1.0, strategy=strategy))
    return model


@pytest.fixture
def _three_threads() -> Iterator[None]:
    with cpu_prepared():
        torch.set_num_threads(3)
        yield


@pytest.mark.usefixtures("_three_threads")
@pytest.mark.parametrize(
    ("strategy", "width", "asked", "of_torch", "of_loops"),
    [
        ("compiled", 64, 2, 1, 2),  # torch's operators on few units are too short to share
        ("compiled", 64, 4, 1, 4),
        ("compiled", 64, None, 1, 2),
        ("compiled", 128, 2, 2, 2),
        ("compiled", 128, None, 3, 3),
        ("published", 64, 2, 2, 2),
        ("published", 64, None, 1, 1),
    ],
)
def test_threads_of_torch_and_of_the_compiled_loops(
    strategy: str, width: int, asked: int | None, of_torch: int, of_loops: int
) -> None:
    words = choose_threads(asked, traced_layer(strategy, width), torch.device("cpu"))
    assert (torch.get_num_threads(), loop_threads()) == (of_torch, of_loops)
    assert words == (" (1 thread)" if of_loops == 1 else f" ({of_loops} threads)")


def test_one_core_gets_one_thread() -> None:
    with cpu_prepared():
        torch.set_num_threads(1)
        assert choose_threads(None, traced_layer("compiled", 64), torch.device("cpu")) == " (1 thread)"


def test_threads_are_restored_after_a_training() -> None:
    before = torch.get_num_threads(), loop_threads()
    with cpu_prepared():
        torch.set_num_threads(5)
        set_loop_threads(4)
    assert (torch.get_num_threads(), loop_threads()) == before
