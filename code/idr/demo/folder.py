"""Checks that writing the built-in scene replaces nothing but an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

from idr.files import check_replaceable

GENERATOR = "idr built-in scene"
SURFACE_FILE, SETTINGS_FILE = "exact_surface.ply", "scene.json"
_OWN_NAMES = {"image", "mask", "cameras.npz", "cameras_linear_init.npz", SURFACE_FILE, SETTINGS_FILE}


def check_target(folder: Path, overwrite: bool) -> None:
    """Checks that a folder may be replaced by a built-in scene, see `idr.files.check_replaceable`."""
    check_replaceable(folder, overwrite, _is_built_in_scene, _OWN_NAMES, "this command")


def _is_built_in_scene(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / SETTINGS_FILE).read_text())["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False
