"""The built-in scene's folder: appears whole or not at all, and replaces nothing but its like."""

from __future__ import annotations

import json
from pathlib import Path

from idr.errors import InputError

GENERATOR = "idr built-in scene"
SURFACE_FILE, SETTINGS_FILE = "exact_surface.ply", "scene.json"
_OWN_NAMES = {"image", "mask", "cameras.npz", "cameras_linear_init.npz", SURFACE_FILE, SETTINGS_FILE}


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Makes sure that nothing is lost by putting a scene in a folder's place.

    Args:
        folder: The folder; missing and empty ones are fine.
        overwrite: Whether a scene of ours may be replaced.

    Raises:
        InputError: Something else than a scene of ours is there, or it holds further files, or `overwrite`
            is off.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder to write the scene to: choose another --out")
    try:
        ours = json.loads((folder / SETTINGS_FILE).read_text())["generator"] == GENERATOR
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise InputError(
            f"{folder} exists and was not written by this command: choose another --out or move it away"
        )
    if not overwrite:
        raise InputError(
            f"{folder} holds a scene already: add --force to write it anew, or choose another --out"
        )
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN_NAMES)
    if foreign:
        raise InputError(
            f"{folder} also holds {', '.join(foreign[:5])}, which this command did not write and will not "
            "delete: move it away first"
        )
