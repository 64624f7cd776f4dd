"""Which run a command is about: the flags of the published ``eval.py``, and what they open."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import add_conf_arguments, add_device_arguments, choose_device, say
from idr.errors import InputError, MissingInputError

if TYPE_CHECKING:
    from idr.evaluation.reconstruction import Reconstruction


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the conf's flags, the device's and those that choose a run."""
    add_conf_arguments(parser)
    parser.add_argument(
        "--expname", default="", help="suffix of the conf's train.expname, as given in training"
    )
    parser.add_argument(
        "--exps_folder",
        default="exps",
        help="folder of the runs: looked up beside code/, then in the working directory; or an absolute path",
    )
    add_device_arguments(parser)
    parser.add_argument(
        "--timestamp", default="latest", help="folder of the run, or the latest with a checkpoint"
    )
    parser.add_argument("--checkpoint", default="latest", help="epoch of the checkpoint, or the latest")
    parser.add_argument(
        "--scan_id", type=int, default=-1, help="scene; -1 takes the conf's dataset.scan_id, if any"
    )


@dataclass(frozen=True)
class ChosenRun:
    """A run that the flags of `add_run_arguments` choose.

    Attributes:
        conf: The conf, a pyhocon tree.
        folder: The run's folder.
        name: The name of its results under ``evals/``.
        opened: Network and scene.
    """

    conf: Any
    folder: Path
    name: str
    opened: Reconstruction


def open_chosen_run(arguments: argparse.Namespace) -> ChosenRun:
    """Opens the run that the flags choose, and says which it is.

    Raises:
        MissingInputError: No such conf, run, checkpoint or scene.
        InputError: They do not belong together.
    """
    from idr.conf.files import load_conf

    # Before torch is imported, so that a mistake in the conf is answered at once.
    conf = load_conf(arguments.conf, arguments.overrides)
    device = choose_device(arguments.gpu, arguments.device)

    from idr.conf.build import conf_value, scan_id_of
    from idr.evaluation.reconstruction import open_reconstruction
    from idr.runs.folders import find_run, run_name

    scan_id = scan_id_of(conf, arguments.scan_id)
    name = run_name(str(conf_value(conf, "train.expname")), arguments.expname, scan_id)
    exps = find_exps_folder(arguments.exps_folder)
    folder = find_run(exps, name, arguments.timestamp, arguments.checkpoint)
    say(f"run: {folder}")
    opened = open_reconstruction(conf, folder, arguments.checkpoint, scan_id, arguments.data_root, device)
    say(f"checkpoint of epoch {opened.loaded.epoch} on {device}")
    return ChosenRun(conf, folder, name, opened)


def find_exps_folder(name: str) -> Path:
    """Finds the folder of the runs.

    Args:
        name: As given: an absolute path, or one relative to the folder that holds code/ (the published
            meaning, tried first) or to the working directory.

    Returns:
        The folder.

    Raises:
        MissingInputError: It is in neither place.
        InputError: The name is empty.
    """
    from idr.conf.files import project_root

    if not name:
        raise InputError("--exps_folder is empty: expected the name of a folder, such as exps")
    places = list(
        dict.fromkeys((project_root() / Path(name).expanduser(), Path.cwd() / Path(name).expanduser()))
    )
    for place in places:
        if place.is_dir():
            return place
    looked = " nor ".join(str(place) for place in places)
    raise MissingInputError(f"no folder of runs {looked}: train first, or name the folder with --exps_folder")


def locate_given_run(given: str, checkpoint: str) -> Path:
    """Finds a run by its folder, as given or beside code/.

    Args:
        given: ``exps/<name>/<time>``, or ``exps/<name>`` for the latest run there.
        checkpoint: ``latest`` or an epoch, which it must hold.

    Returns:
        The run's folder.

    Raises:
        MissingInputError: There is no such run or checkpoint.
    """
    from idr.conf.files import project_root
    from idr.runs.opened import locate_run

    beside_code = project_root() / given
    return locate_run(beside_code if beside_code.is_dir() else Path(given), checkpoint)


def check_new(paths: list[Path], force: bool) -> None:
    """Refuses to replace files, before anything is computed.

    Args:
        paths: Files about to be written.
        force: Whether those that are there may be replaced.

    Raises:
        InputError: One is there and may not be replaced, or a folder stands in its place.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected the name of a file: choose another --out")
        if path.exists() and not force:
            raise InputError(f"{path} is there already: add --force to replace it, or choose another --out")
