"""IDR: a surface and its appearance from photographs, masks and cameras.

The library's front door loads a trained run::

    import idr

    run = idr.load_run("exps/demo_1/2026_01_31_12_00_00")
    mesh = run.mesh(resolution=128)

Importing this package is cheap: the names below are loaded at their first use.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idr.runs.api import Camera, LoadedRun, load_run

__all__ = ["Camera", "LoadedRun", "__version__", "load_run"]

_HOME_OF = {name: "idr.runs.api" for name in ("Camera", "LoadedRun", "load_run")}


def __getattr__(name: str) -> Any:
    """Imports the library's names, and finds the version, at their first use (PEP 562)."""
    if name == "__version__":
        return _version()
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _version() -> str:
    """Returns the version in pyproject.toml: the checkout's, else that of the installed package."""
    try:
        project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        project = ""
    found = re.search(r'^name = "idr"\nversion = "(.+)"$', project, re.MULTILINE)
    return found[1] if found else importlib.import_module("importlib.metadata").version("idr")
