"""One table of the results of ``eval.py`` and ``eval_mesh.py`` for all scans of a conf, with means."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idr.errors import USER_ERRORS, InputError, MissingInputError
from idr.files import read_json, write_text_atomic

CAMERAS = ("rotation_degrees", "translation")
IMAGE_SCORES = ("psnr", "ssim", "lpips", "iou")
MESH_SCORES = ("accuracy", "completeness", "chamfer")
COLUMNS = tuple(f"{score}_{split}" for split in ("training", "held_out") for score in IMAGE_SCORES)
COLUMNS += MESH_SCORES + CAMERAS
TITLES = {"rotation_degrees": "rotation (deg)", "translation": "center (world)"}


@dataclass(frozen=True)
class ScanScores:
    """Scores of a scan.

    Attributes:
        scan: Scan number; None for a run without one.
        epoch: Epoch of the evaluated checkpoint.
        protocol: Protocol of the mesh scores, ``dtu`` or ``chamfer``; None without mesh scores.
        values: Score by column of `COLUMNS`; None if not measured.
    """

    scan: int | None
    epoch: int
    protocol: str | None
    values: dict[str, float | None]


def find_scans(evals: Path, name: str) -> dict[int | None, Path]:
    """Returns the folders ``<evals>/<expname><suffix>[_<scan>]`` with results, by scan number in order.

    Raises:
        MissingInputError: No folder holds a ``results.json``.
    """
    pattern = re.compile(re.escape(name) + r"(?:_(\d+))?")
    found: dict[int | None, Path] = {}
    for folder in sorted(evals.iterdir()) if evals.is_dir() else []:
        match = pattern.fullmatch(folder.name)
        if match and (folder / "results.json").is_file():
            found[int(match[1]) if match[1] else None] = folder
    if not found:
        raise MissingInputError(f"no {evals}/{name}[_<scan>]/results.json: run eval.py on each scan first")
    return dict(sorted(found.items(), key=lambda item: -1 if item[0] is None else item[0]))


def read_scan(scan: int | None, folder: Path) -> tuple[ScanScores, list[str]]:
    """Reads ``results.json`` of a scan, and the scores of the mesh that it names.

    Returns:
        The scores, and a note for each score that is left out or has exposures corrected.

    Raises:
        InputError: A file is not a results file.
    """
    record, notes = _read(folder / "results.json"), []
    values: dict[str, float | None] = dict.fromkeys(COLUMNS)
    try:
        for split, key in (("training", "rendering"), ("held_out", "rendering_held_out")):
            images = record.get(key, {})
            values |= {f"{score}_{split}": _number(images.get(f"{score}_mean")) for score in IMAGE_SCORES}
            if exposure := images.get("exposure"):
                notes.append(f"scan {scan}: {split.replace('_', '-')} image scores with exposures {exposure}")
        values |= {column: _number(record.get("cameras", {}).get(f"{column}_mean")) for column in CAMERAS}
        if record.get("lpips_error"):
            notes.append(f"scan {scan}: LPIPS was not measured: {record['lpips_error']}")
        mesh = record.get("surface", {}).get("file")
        scores = _mesh_scores(folder / mesh, notes) if mesh else None
        if scores is not None:
            chamfer = "overall" if scores["protocol"] == "dtu" else "chamfer"
            for column, name in zip(MESH_SCORES, ("accuracy", "completeness", chamfer), strict=True):
                values[column] = _number(scores[name])
        protocol = None if scores is None else str(scores["protocol"])
        return ScanScores(scan, int(record["epoch"]), protocol, values), notes
    except USER_ERRORS:
        raise
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{folder}: not results of this project ({error!r}); run eval.py again") from error


def _mesh_scores(mesh: Path, notes: list[str]) -> dict[str, Any] | None:
    """Reads the scores of a mesh; None, with a note, if the mesh is newer than its scores."""
    path = mesh.with_name(f"{mesh.stem}_scores.json")
    if not path.is_file():
        return None
    if mesh.is_file() and mesh.stat().st_mtime > path.stat().st_mtime:
        notes.append(f"{path} is older than its mesh and left out: run eval_mesh.py again")
        return None
    return _read(path)


def _number(value: Any) -> float | None:
    """Returns a score; None stays None. A `ValueError` for what is no finite number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"a score of {str(value)[:40]}")
    return float(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}); run the evaluation again") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} holds no results; run the evaluation again")
    return record


def means(scans: list[ScanScores]) -> dict[str, float | None]:
    """Returns means over scans; None if a scan lacks the score or mesh scores follow several protocols."""
    mixed = len({scan.protocol for scan in scans}) > 1
    result: dict[str, float | None] = {}
    for column in COLUMNS:
        found = [value for scan in scans if (value := scan.values[column]) is not None]
        whole = len(found) == len(scans) and not (mixed and column in MESH_SCORES)
        result[column] = sum(found) / len(found) if whole else None
    return result


def write_summary(scans: list[ScanScores], path: Path) -> str:
    """Writes ``<path>.json``, ``.csv`` and ``.md`` of at least one scan, and returns the Markdown table.

    The table has the columns that at least one scan has.

    Raises:
        OutputError: A file cannot be written.
    """
    mean = means(scans)
    rows = [{"scan": s.scan, "epoch": s.epoch, "protocol": s.protocol, **s.values} for s in scans]
    record = {"scans": rows, "mean": mean}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, {"scan": "mean", **mean}])
    table = _markdown(scans, mean)
    write_text_atomic(path.with_name(f"{path.name}.json"), json.dumps(record, indent=2) + "\n")
    write_text_atomic(path.with_name(f"{path.name}.csv"), text.getvalue())
    write_text_atomic(path.with_name(f"{path.name}.md"), table)
    return table


def _markdown(scans: list[ScanScores], mean: dict[str, float | None]) -> str:
    shown = [column for column in COLUMNS if any(scan.values[column] is not None for scan in scans)]
    titles = [TITLES.get(column, column.replace("_", " ", 1).replace("_", "-")) for column in shown]
    lines = [["scan", "epoch", *titles], ["---"] * (len(shown) + 2)]
    lines += [
        [str("" if s.scan is None else s.scan), str(s.epoch), *(_cell(c, s.values[c]) for c in shown)]
        for s in scans
    ]
    lines.append(["mean", "", *(_cell(column, mean[column]) for column in shown)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column in MESH_SCORES:
        return f"{value:.4g}"
    return f"{value:.2f}" if column.startswith(("psnr", "rotation", "translation")) else f"{value:.4f}"
