"""How a process gets ready to train."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES_OF_LAST_ROUND = """
import contextlib, resource
import torch
from idr.cli.shared.train_flags import cpu_prepared

faults = []
with {context}:
    for _ in range(4):
        arrays = [torch.ones(4_000_000) for _ in range(4)]
        del arrays
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
    assert returned > 5_000  # of 15,625 pages: otherwise this test shows nothing
