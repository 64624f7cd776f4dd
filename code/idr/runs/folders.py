"""Where runs and results lie: `exps/<name>/<time>/` and `evals/<name>/`, and how the last run is found.

    exps/<expname><suffix>[_<scan>]/<YYYY_MM_DD_HH_MM_SS>/
        runconf.conf   plots/   checkpoints/

A run's folder may have any other name; published runs are called `2020`.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from idr.checkpoints.folder import LATEST, PARTS, STATE_KEYS, CheckpointFolder, checkpoint_name
from idr.conf.files import did_you_mean, project_root
from idr.errors import MissingInputError
from idr.files import make_folder, output_errors, sync_folder

__all__ = [
    "CHECKPOINTS", "LATEST", "PARTS", "PLOTS", "RUNCONF", "STATE_KEYS", "CheckpointFolder", "checkpoint_name",
    "create_run", "evals_folder", "find_run", "newest_run", "run_name",
]  # fmt: skip

CHECKPOINTS = "checkpoints"
PLOTS = "plots"
RUNCONF = "runconf.conf"
TIME_FORMAT = "%Y_%m_%d_%H_%M_%S"
NO_SCAN = -1


def run_name(expname: str, suffix: str = "", scan_id: int | None = None) -> str:
    """Names a run: the folder under `exps/` and `evals/`.

    Args:
        expname: `train.expname` of the conf.
        suffix: `--expname`; joined without a separator.
        scan_id: Scan; None and -1 add nothing.

    Returns:
        `<expname><suffix>[_<scan>]`.
    """
    scan = "" if scan_id is None or scan_id == NO_SCAN else f"_{scan_id}"
    return f"{expname}{suffix}{scan}"


def create_run(exps_folder: Path, name: str) -> Path:
    """Makes a new run folder, named by the time.

    Args:
        exps_folder: Such as `exps/` beside `code/`; made if missing.
        name: From `run_name`.

    Returns:
        The folder, with empty `plots/` and `checkpoints/`. If a run took this second, the next free one.

    Raises:
        OutputError: The system refuses.
    """
    parent = Path(exps_folder) / name
    make_folder(parent)
    time = datetime.now()
    with output_errors(parent):
        while True:
            run = parent / time.strftime(TIME_FORMAT)
            try:
                os.mkdir(run)
                break
            except FileExistsError:
                time += timedelta(seconds=1)
        sync_folder(parent)
    make_folder(run / PLOTS)
    make_folder(run / CHECKPOINTS)
    return run


def find_run(exps_folder: Path, name: str, timestamp: str = LATEST, checkpoint: str | int = LATEST) -> Path:
    """Finds the folder of a run that holds a checkpoint.

    Args:
        exps_folder: Such as `exps/`.
        name: From `run_name`.
        timestamp: The run's folder, whatever its name; `latest` is the last in name order that holds it.
        checkpoint: The checkpoint it must hold, as for `CheckpointFolder.resolve`.

    Returns:
        The run's folder.

    Raises:
        MissingInputError: No such run, or none with that checkpoint; the message lists what there is.
    """
    parent = Path(exps_folder) / name
    if not parent.is_dir():
        raise MissingInputError(_no_such_name(Path(exps_folder), name))
    runs = _folders(parent)
    listing = f"runs there: {', '.join(runs)}" if runs else "it is empty"
    if timestamp != LATEST:
        if timestamp not in runs:
            raise MissingInputError(
                f"no run {timestamp} in {parent}; {listing}; give one of these to --timestamp"
            )
        CheckpointFolder(parent / timestamp / CHECKPOINTS).resolve(checkpoint)
        return parent / timestamp
    for run in reversed(runs):
        if _holds(parent / run, checkpoint):
            return parent / run
    what = "a checkpoint" if checkpoint == LATEST else f"checkpoint {checkpoint}"
    raise MissingInputError(f"no run in {parent} holds {what}; {listing}; train first, or choose another one")


def newest_run(exps_folder: Path, name: str | None = None) -> Path:
    """Finds the run that was trained last, with a checkpoint or still without.

    Args:
        exps_folder: Such as `exps/`.
        name: Look among the runs of this name; None for all names.

    Returns:
        The folder of the run whose checkpoints changed last.

    Raises:
        MissingInputError: There is no run.
    """
    exps = Path(exps_folder)
    if name is not None and not (exps / name).is_dir():
        raise MissingInputError(_no_such_name(exps, name))
    names = [name] if name is not None else (_folders(exps) if exps.is_dir() else [])
    runs = [exps / each / run for each in names for run in _folders(exps / each)]
    runs = [run for run in runs if (run / CHECKPOINTS).is_dir()]
    if not runs:
        where = exps if name is None else exps / name
        raise MissingInputError(f"no run in {where}: train first, or name another place with --exps_folder")
    return max(runs, key=lambda run: (_last_change(run / CHECKPOINTS), run))


def _last_change(checkpoints: Path) -> int:
    """When files came into a folder of checkpoints or left it, nanoseconds."""
    times = []
    for folder in (checkpoints, *checkpoints.iterdir()):
        try:
            times.append(folder.stat().st_mtime_ns)
        except FileNotFoundError:  # a run that is being trained
            continue
    return max(times, default=0)


def _holds(run: Path, checkpoint: str | int) -> bool:
    try:
        CheckpointFolder(run / CHECKPOINTS).resolve(checkpoint)
    except MissingInputError:
        return False
    return True


def _folders(parent: Path) -> list[str]:
    return sorted(
        entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _no_such_name(exps_folder: Path, name: str) -> str:
    if not exps_folder.is_dir():
        return f"no run {name}: there is no folder {exps_folder}; train first, or give --exps_folder"
    names = _folders(exps_folder)
    listing = f"runs there: {', '.join(names)}" if names else "it is empty"
    return (
        f"no run {name} in {exps_folder}{did_you_mean(name, names)}; {listing}; "
        "check --conf, --expname and --scan_id, or train first"
    )


def evals_folder(name: str, root: Path | None = None) -> Path:
    """Names the folder of a run's results; it is not made.

    Args:
        name: From `run_name`.
        root: Folder that holds `evals/`; None for the project's.

    Returns:
        `<root>/evals/<name>`.
    """
    return (project_root() if root is None else Path(root)) / "evals" / name
