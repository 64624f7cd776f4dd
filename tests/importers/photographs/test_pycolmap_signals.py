"""SIGTERM keeps its handler when pycolmap is imported, whose logging library installs its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytest.importorskip("pycolmap", reason="needs the extra `colmap`")
IMPORTED = "from idr.importers.colmap import import_pycolmap; import_pycolmap(); "


def run_and_kill(code: str) -> subprocess.CompletedProcess[str]:
    send = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    return subprocess.run([sys.executable, "-c", code + send], capture_output=True, text=True, timeout=60)


def test_sigterm_ends_the_process_without_a_stack_trace() -> None:
    done = run_and_kill(IMPORTED)
    assert done.returncode == -signal.SIGTERM and done.stderr == ""


def test_a_python_handler_still_runs() -> None:
    done = run_and_kill(
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); " + IMPORTED
    )
    assert done.returncode == 7 and done.stderr == ""


def test_pycolmap_alone_prints_a_stack_trace() -> None:
    done = run_and_kill("import pycolmap; ")
    assert "SIGTERM" in done.stderr  # else `import_pycolmap` need not restore anything
