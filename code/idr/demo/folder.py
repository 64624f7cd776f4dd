"""Checks that writing the built-in scene replaces nothing but an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

from idr.errors import InputError

GENERATOR = "idr built-in scene"
SURFACE_FILE, SETTINGS_FILE = "exact_surface.ply", "scene.json"
_OWN_NAMES = {"image", "mask", "cameras.npz", "cameras_linear_init.npz", SURFACE_FILE, SETTINGS_FILE}


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Checks that a folder may be replaced by a built-in scene.

    Args:
        folder: The folder; it may be missing or empty.
        overwrite: Whether an earlier built-in scene may be replaced.

    Raises:
        InputError: The folder has other content, or `overwrite` is False.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder for the scene: choose another --out")
    try:
        ours = json.loads((folder / SETTINGS_FILE).read_text())["generator"] == GENERATOR
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise InputError(
            f"{folder} exists and was not written by this command: choose another --out or move it away"
        )
    if not overwrite:
        raise InputError(f"{folder} already has a scene: add --force to replace it, or choose another --out")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN_NAMES)
    if foreign:
        raise InputError(
            f"{folder} also has {', '.join(foreign[:5])}, not written by this command; --force would delete "
            "it: move it away first"
        )
