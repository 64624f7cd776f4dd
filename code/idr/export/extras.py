"""Import of the optional packages of the extra ``idr[mesh]``."""

from __future__ import annotations

import importlib
from typing import Any

from idr.errors import MissingInputError


def import_mesh_package(name: str, user: str) -> Any:
    """Imports ``xatlas``, ``embreex`` or ``fast_simplification``.

    Args:
        name: The module.
        user: What needs it and the alternative, for the message.

    Raises:
        MissingInputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingInputError(
            f"{user} needs {name}, which is not installed: pip install -e '.[mesh]'"
        ) from error
