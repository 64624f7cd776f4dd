"""How a process gets ready to train."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
