"""Packages that only exports need, imported on use."""

from __future__ import annotations

import importlib
from typing import Any

from idr.errors import MissingInputError


def import_mesh_package(name: str, what_for: str) -> Any:
    """Imports a package of the extra ``idr[mesh]``.

    Args:
        name: The module: ``xatlas``, ``embreex`` or ``fast_simplification``.
        what_for: What needs it and how to do without, for the message.

    Returns:
        The module.

    Raises:
        MissingInputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingInputError(
            f"{what_for} needs {name}, which is not installed: pip install -e '.[mesh]'"
        ) from error
