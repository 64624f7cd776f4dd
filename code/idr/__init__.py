"""IDR: a surface and its appearance from photographs, masks and cameras.

The library's front door loads a trained run::

    import idr

    run = idr.load_run("exps/demo_1/2026_01_31_12_00_00")
    mesh = run.mesh(resolution=128)

Importing this package is cheap: the names below are loaded at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idr.runs.api import Camera, LoadedRun, load_run

__version__ = "1.0.0"
__all__ = ["Camera", "LoadedRun", "__version__", "load_run"]

_HOME_OF = {name: "idr.runs.api" for name in ("Camera", "LoadedRun", "load_run")}


def __getattr__(name: str) -> Any:
    """Imports the library's names at their first use (PEP 562)."""
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
