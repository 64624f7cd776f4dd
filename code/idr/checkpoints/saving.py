"""Saves a checkpoint of several files atomically: a complete one exists at every moment.

The steps of a save, each flushed to the disk before the next begins:

1. `manifests/` is made. Sets of the published code get manifests, all in one rename.
2. Leftovers of a killed save are removed; a replacement after its commit is finished.
3. `unfinished.json` names the set, so that the next save can remove its files.
4. The parts are written, under staging names if a complete set of that name exists.
5. The manifest is written. **This commits the new set.**
6. Staged parts get their final names.
7. `latest`: its manifest is removed, its files are replaced by copies, its manifest is written. They are not
   links, because the published code rewrites `latest.pth` in place, which would change the numbered file,
   too.
8. Sets beyond `keep_last` are removed, each manifest first; `unfinished.json` is removed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from idr.checkpoints.format import read_content, write_content
from idr.checkpoints.manifests import (
    LATEST,
    MANIFESTS,
    MODEL,
    PARTS,
    Manifest,
    complete_sets,
    manifest_file,
    parse_name,
    part_file,
    published_names,
    read_manifest,
    record_file,
    staged_file,
    write_manifest,
)
from idr.errors import InputError, OutputError
from idr.files import (
    make_folder,
    output_errors,
    read_json,
    sync_folder,
    temporary_files,
    write_atomic,
    write_text_atomic,
)

log = logging.getLogger(__name__)

Parts = Mapping[str, Mapping[str, Any]]

UNFINISHED = "unfinished"
"""Stem of the file, among the manifests, that names sets whose files are removed if they have no manifest."""


def save_set(root: Path, name: str, epoch: int, step: int, parts: Parts, keep_last: int | None) -> None:
    """Saves a set; see `CheckpointFolder.save`."""
    assert MODEL in parts and set(parts) <= set(PARTS) and parse_name(name), (name, list(parts))
    assert keep_last is None or keep_last >= 1, keep_last
    counts = False
    try:
        with output_errors(root):
            _prepare(root)
            _sweep(root)
            serial = 1 + max((manifest.serial for manifest in complete_sets(root)), default=-1)
            _write_set(root, Manifest(name, epoch, step, serial), parts)
            counts = True
            _refresh_latest(root, name)
            _prune(root, name, keep_last)
            manifest_file(root, UNFINISHED).unlink(missing_ok=True)
    except OutputError as error:
        try:
            if (root / MANIFESTS).is_dir():
                _sweep(root)
        except OSError as problem:
            log.debug("could not tidy %s: %s", root, problem)  # the next save tries again
        if counts:
            raise OutputError(f"checkpoint {name} is saved, but the work after it failed: {error}") from error
        adopted = (root / MANIFESTS).is_dir()
        good = [manifest.name for manifest in complete_sets(root)] if adopted else published_names(root)
        kept = f"the last good checkpoint, {good[-1]}, is kept" if good else "there is no earlier checkpoint"
        raise OutputError(f"checkpoint {name} was not saved: {error}; {kept}") from error


def _prepare(root: Path) -> None:
    """Makes `manifests/`; sets of the published code get their manifests in the same rename."""
    if (root / MANIFESTS).is_dir():
        return
    make_folder(root)
    for leftover in root.glob(f".{MANIFESTS}.*.tmp"):
        shutil.rmtree(leftover)
    temporary = root / f".{MANIFESTS}.{secrets.token_hex(4)}.tmp"
    make_folder(temporary)
    for serial, name in enumerate(published_names(root)):
        position = parse_name(name)
        epoch = position[0] if position else _epoch_in_file(part_file(root, MODEL, name))
        if epoch is None:
            log.warning("%s cannot be read; it does not count as a checkpoint", part_file(root, MODEL, name))
            continue
        paths = {part: part_file(root, part, name) for part in PARTS}
        files = {part: record_file(path) for part, path in paths.items() if path.is_file()}
        write_manifest(temporary, Manifest(name, epoch, 0, serial, files))
    os.rename(temporary, root / MANIFESTS)
    sync_folder(root)


def _epoch_in_file(path: Path) -> int | None:
    try:
        return int(read_content(path)["epoch"])
    except (InputError, KeyError, TypeError):
        return None


def _sweep(root: Path) -> None:
    """Finishes or removes the leftovers of a save that was killed or failed."""
    for folder in (root / MANIFESTS, *(root / part for part in PARTS)):
        for leftover in temporary_files(folder):
            leftover.unlink(missing_ok=True)
    for part in PARTS:
        for staged in sorted((root / part).glob(".*.staged.pth")):
            manifest = read_manifest(root, staged.name[1 : -len(".staged.pth")])
            if manifest is None or not manifest.staged:
                staged.unlink(missing_ok=True)
    for manifest in complete_sets(root):
        if manifest.staged:
            _unstage(root, manifest)
    for name in _unfinished(root):
        if not manifest_file(root, name).is_file():
            _remove_parts(root, name, PARTS)
    manifest_file(root, UNFINISHED).unlink(missing_ok=True)


def _unfinished(root: Path) -> list[str]:
    try:
        names = read_json(manifest_file(root, UNFINISHED))
    except (OSError, ValueError):
        return []
    names = names if isinstance(names, list) else []
    return [name for name in names if isinstance(name, str) and parse_name(name)]


def _note_unfinished(root: Path, names: list[str]) -> None:
    write_text_atomic(manifest_file(root, UNFINISHED), json.dumps(names))


def _write_set(root: Path, manifest: Manifest, parts: Parts) -> None:
    name = manifest.name
    replaces = manifest_file(root, name).is_file()
    if not replaces:
        _note_unfinished(root, [name])
    files = {}
    for part, content in parts.items():
        path = (staged_file if replaces else part_file)(root, part, name)
        write_atomic(path, partial(write_content, content=content))
        files[part] = record_file(path)
    manifest = replace(manifest, files=files, staged=replaces)
    write_manifest(root / MANIFESTS, manifest)
    if replaces:
        _unstage(root, manifest)
    _remove_parts(root, name, set(PARTS) - set(parts))


def _unstage(root: Path, manifest: Manifest) -> None:
    for part in manifest.files:
        staged = staged_file(root, part, manifest.name)
        if staged.is_file():
            os.replace(staged, part_file(root, part, manifest.name))
            sync_folder(root / part)
    write_manifest(root / MANIFESTS, replace(manifest, staged=False))


def _refresh_latest(root: Path, name: str) -> None:
    manifest = read_manifest(root, name)
    if manifest is None:
        raise FileNotFoundError(errno.ENOENT, "removed since it was written", str(manifest_file(root, name)))
    manifest_file(root, LATEST).unlink(missing_ok=True)
    sync_folder(root / MANIFESTS)
    for part in manifest.files:
        with open(part_file(root, part, name), "rb") as source:
            write_atomic(part_file(root, part, LATEST), partial(shutil.copyfileobj, source))
    _remove_parts(root, LATEST, set(PARTS) - set(manifest.files))
    write_manifest(root / MANIFESTS, replace(manifest, name=LATEST))


def _prune(root: Path, saved: str, keep_last: int | None) -> None:
    if keep_last is None:
        return
    older = [m.name for m in complete_sets(root) if m.name not in (LATEST, saved)]
    names = older[: max(0, len(older) - (keep_last - 1))]
    if not names:
        return
    _note_unfinished(root, names)
    for name in names:
        manifest_file(root, name).unlink(missing_ok=True)
    sync_folder(root / MANIFESTS)
    for name in names:
        _remove_parts(root, name, PARTS)


def _remove_parts(root: Path, name: str, parts: Iterable[str]) -> None:
    for part in parts:
        part_file(root, part, name).unlink(missing_ok=True)
