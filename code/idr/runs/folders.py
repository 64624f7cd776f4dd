"""Folders of runs and results, `exps/<name>/<time>/` and `evals/<name>/`, and how a run is found.

    exps/<expname><suffix>[_<scan>]/<YYYY_MM_DD_HH_MM_SS>/
        runconf.conf   plots/   checkpoints/

A run's folder may have any other name; published runs are called `2020`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pyhocon import ConfigTree

from idr.checkpoints.folder import LATEST, CheckpointFolder
from idr.checkpoints.metrics import read_metrics
from idr.conf.files import did_you_mean, load_conf, project_root
from idr.errors import MissingInputError
from idr.files import make_folder, output_errors, sync_folder

__all__ = [
    "CHECKPOINTS", "LATEST", "PLOTS", "RUNCONF", "CheckpointFolder", "conf_of_run", "create_run",
    "evals_folder", "find_run", "locate_run", "newest_run", "read_metrics", "run_name",
]  # fmt: skip

CHECKPOINTS = "checkpoints"
PLOTS = "plots"
RUNCONF = "runconf.conf"
TIME_FORMAT = "%Y_%m_%d_%H_%M_%S"
NO_SCAN = -1


def run_name(expname: str, suffix: str = "", scan_id: int | None = None) -> str:
    """Returns the name of a run's folder under `exps/` and `evals/`: `<expname><suffix>[_<scan>]`.

    `expname` is `train.expname` of the conf, `suffix` is `--expname`; a scan of None or -1 adds nothing.
    """
    scan = "" if scan_id in (None, NO_SCAN) else f"_{scan_id}"
    return f"{expname}{suffix}{scan}"


def create_run(exps_folder: Path, name: str) -> Path:
    """Creates a run folder with empty `plots/` and `checkpoints/`, named by the next free second.

    It comes after the names of all earlier runs, even if the clock was set back, as `latest` goes by names.

    Raises:
        OutputError: The system refuses.
    """
    parent = Path(exps_folder) / name
    make_folder(parent)
    time = max([datetime.now(), *(each for each in map(_second_after, _folders(parent)) if each)])
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
    """Returns the folder of a run that holds a checkpoint.

    Args:
        exps_folder: The folder `exps/`.
        name: From `run_name`.
        timestamp: Name of the run's folder; `latest` is the last one in name order that holds the checkpoint.
        checkpoint: As for `CheckpointFolder.resolve`.

    Raises:
        MissingInputError: No such run, or none with that checkpoint; the message lists the runs there are.
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
        if CheckpointFolder(parent / run / CHECKPOINTS).has("ModelParameters", checkpoint):
            return parent / run
    what = "a checkpoint" if checkpoint == LATEST else f"checkpoint {checkpoint}"
    raise MissingInputError(f"no run in {parent} holds {what}; {listing}; train first, or choose another one")


def locate_run(path: str | Path, checkpoint: str) -> Path:
    """Returns the folder ``exps/<name>/<time>`` of a run from its own path, or from ``exps/<name>``.

    The latter means the latest run there that holds the checkpoint.

    Raises:
        MissingInputError: There is no such run or checkpoint.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise MissingInputError(f"no run folder {folder}: expected one that holds {CHECKPOINTS}/")
    folder = folder.resolve()
    if (folder / CHECKPOINTS).is_dir():
        CheckpointFolder(folder / CHECKPOINTS).resolve(checkpoint)
        return folder
    return find_run(folder.parent, folder.name, checkpoint=checkpoint)


def newest_run(exps_folder: Path, name: str | None = None) -> Path:
    """Returns the latest run of one name, or of the name whose latest run changed last.

    The latest run of a name is that of `find_run`, or while none holds a checkpoint the last in name order.

    Raises:
        MissingInputError: There is no run.
    """
    exps = Path(exps_folder)
    if name is not None and not (exps / name).is_dir():
        raise MissingInputError(_no_such_name(exps, name))
    names = [name] if name is not None else (_folders(exps) if exps.is_dir() else [])
    runs = []
    for each in names:
        own = [run for run in _folders(exps / each) if (exps / each / run / CHECKPOINTS).is_dir()]
        saved = [run for run in own if CheckpointFolder(exps / each / run / CHECKPOINTS).names()]
        runs += [exps / each / run for run in (saved or own)[-1:]]
    if not runs:
        where = exps if name is None else exps / name
        raise MissingInputError(f"no run in {where}: train first, or name another place with --exps_folder")
    return max(runs, key=lambda run: (_last_change(run / CHECKPOINTS), run))


def conf_of_run(run_folder: Path, fallback: str | Path | None, overrides: Sequence[str] = ()) -> ConfigTree:
    """Reads the conf saved with a run, or else the fallback: published pretrained runs have none.

    Raises:
        MissingInputError: The run has no conf and there is no fallback.
    """
    own = run_folder / RUNCONF
    conf = own if own.is_file() else fallback
    if conf is None:
        raise MissingInputError(
            f"{run_folder} holds no {RUNCONF}: give the conf that the run was trained with"
        )
    return load_conf(conf, overrides)


def evals_folder(name: str, exps: Path | None = None, evals: str | None = None) -> Path:
    """Returns the folder of a run's results.

    It is in `evals`, a path relative to the project; if that is None, in `evals/` beside the folder `exps` of
    the runs, or in the project's.
    """
    if evals is not None:
        return project_root() / Path(evals).expanduser() / name
    return (project_root() if exps is None else exps.resolve().parent) / "evals" / name


def _last_change(checkpoints: Path) -> int:
    """Returns when a folder of checkpoints last gained or lost a file, nanoseconds."""
    times = []
    for folder in (checkpoints, *checkpoints.iterdir()):
        try:
            times.append(folder.stat().st_mtime_ns)
        except FileNotFoundError:  # removed by a training under way
            continue
    return max(times, default=0)


def _second_after(run: str) -> datetime | None:
    """Returns the time in a run's name plus a second; None for a name that is no time."""
    try:
        return datetime.strptime(run, TIME_FORMAT) + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None


def _folders(parent: Path) -> list[str]:
    folders = (entry.name for entry in parent.iterdir() if entry.is_dir())
    return sorted(name for name in folders if not name.startswith("."))


def _no_such_name(exps_folder: Path, name: str) -> str:
    if not exps_folder.is_dir():
        return f"no run {name}: there is no folder {exps_folder}; train first, or give --exps_folder"
    names = _folders(exps_folder)
    listing = f"runs there: {', '.join(names)}" if names else "it is empty"
    return (
        f"no run {name} in {exps_folder}{did_you_mean(name, names)}; {listing}; "
        "check --conf, --expname and --scan_id, or train first"
    )
