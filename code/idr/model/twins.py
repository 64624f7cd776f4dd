"""The door to `idr.model.kernels`: faster twins of parts of the method, which may be missing.

The method computes everything in plain torch. Where a twin can serve, it returns the same values up to
rounding in less time. Nothing in the method imports the kernels; it asks here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

PACKAGE = "idr.model.kernels"


@functools.cache
def find_kernel(name: str) -> ModuleType | None:
    """Returns the module ``idr.model.kernels.<name>`` if it is there and can run here.

    A kernel that needs a library says so with a function ``is_available() -> bool``.

    Args:
        name: The module's name.

    Returns:
        The module; None without the kernels' folder, and where ``is_available`` is False.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    module = importlib.import_module(f"{PACKAGE}.{name}")
    return module if getattr(module, "is_available", lambda: True)() else None
