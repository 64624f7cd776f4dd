"""IDR: a surface and its appearance from photographs, masks and cameras.

To use a trained run as a library::

    import idr

    run = idr.load_run("exps/demo_1/2026_01_31_12_00_00")
    mesh = run.mesh(resolution=128)

Importing this package is cheap: the names below are loaded on first use.
"""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idr.runs import Camera, Run, load_run

__all__ = ["Camera", "Run", "__version__", "load_run"]

_RENAMED = {"LoadedRun": "Run"}


def __getattr__(name: str) -> Any:
    """Imports the library's names, and finds the version, on first use (PEP 562)."""
    if name == "__version__":
        return _version()
    if name in _RENAMED:
        warnings.warn(f"idr.{name} is now idr.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name in __all__:
        return getattr(importlib.import_module("idr.runs"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _version() -> str:
    """Returns the version in pyproject.toml: the checkout's, else that of the installed package."""
    try:
        project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        project = ""
    found = re.search(r'^name = "idr-surface"\nversion = "(.+)"$', project, re.MULTILINE)
    return found[1] if found else importlib.import_module("importlib.metadata").version("idr-surface")
