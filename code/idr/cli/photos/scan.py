"""What a scene of ``idr photos`` says of itself: its source, its name, and whether its masks were mended."""

from __future__ import annotations

from pathlib import Path

PLAIN_NAMES = ("photos", "images", "image", "input")
"""Names of folders that do not say what is on the photographs."""


def title_of(source: Path) -> str:
    """Returns the name of the user's folder or film; of the folder around one that is just `photos`."""
    name = source.stem if source.is_file() else source.name
    return source.parent.name if name.lower() in PLAIN_NAMES and source.parent.name else name


def mask_edits(scan: Path) -> list[str]:
    """Returns a digest of the masks of an imported scene if `idr masks` changed some; else nothing."""
    from idr.importers.masks.editing import EDITS, read_record

    record = read_record(scan) or {}
    return [str(record[EDITS])] if EDITS in record else []


def recorded_source(scan: Path) -> str | None:
    """Returns the source of an imported scene, from its record; None without one."""
    from idr.files import read_json
    from idr.importers.source import RECORD

    try:
        return str(read_json(scan / RECORD)["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
