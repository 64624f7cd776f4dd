"""Opens the run that the flags choose; checks of views and of files to write."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import choose_device, say
from idr.cli.shared.confs import read_conf
from idr.errors import InputError, MissingInputError
from idr.places import shipped_root
from idr.replacing import check_file

if TYPE_CHECKING:
    from idr.runs import Run


def check_view(arguments: argparse.Namespace, run: Run) -> None:
    """Refuses a ``--view`` that the run does not have."""
    if not 0 <= arguments.view < len(run.scene):
        raise InputError(f"--view {arguments.view}: the scene has training views 0 to {len(run.scene) - 1}")


def frame_intrinsics(
    arguments: argparse.Namespace, run: Run, own: tuple[Any, tuple[int, int]] | None = None
) -> tuple[Any, tuple[int, int]]:
    """Returns K at the size of ``--img_res``, (F or 1, 4, 4) on the run's device, and that size.

    K is that of the training view ``--view``, or `own`, with the size that it belongs to.
    """
    from idr.geometry.cameras import resized_intrinsics

    intrinsics, own_res = own or (run.training_intrinsics[arguments.view][None], run.img_res)
    img_res = (arguments.img_res[0], arguments.img_res[1]) if arguments.img_res else own_res
    return resized_intrinsics(intrinsics.float(), own_res, img_res).to(run.device), img_res


def open_run(arguments: argparse.Namespace) -> tuple[Run, Path]:
    """Opens the run that the flags of `add_run_arguments` choose, with its scene, and prints which it is.

    Chunk sizes that the command line leaves out are set to the conf's.

    Returns:
        The run, and the folder of its results, ``evals/<name>/`` by default.

    Raises:
        MissingInputError: No such conf, run, checkpoint or scene.
        InputError: They do not belong together.
    """
    # First, so that a mistake in the conf is reported at once.
    conf = read_conf(arguments.conf, arguments.overrides)
    device = choose_device(arguments.gpu, arguments.device)

    from idr.conf.build import scan_id_of
    from idr.runs import Run
    from idr.runs.folders import evals_folder, find_run

    name = name_of_run(arguments, conf)
    exps = find_exps_folder(arguments.exps_folder)
    folder = find_run(exps, name, arguments.timestamp, arguments.checkpoint)
    set_chunks(arguments, conf)
    say(f"run: {folder}")
    scan_id = scan_id_of(conf, arguments.scan_id)
    run = Run(conf, folder, arguments.checkpoint, device, scan_id=scan_id, data_root=arguments.data_root)
    run.read_scene()
    say(f"checkpoint of epoch {run.epoch} on {device}")
    return run, evals_folder(name, exps, arguments.evals_folder)


def name_of_run(arguments: argparse.Namespace, conf: Any) -> str:
    """Returns ``<expname><suffix>[_<scan>]``."""
    from idr.conf.build import conf_value, scan_id_of
    from idr.runs.folders import run_name

    expname = str(conf_value(conf, "train.expname"))
    return run_name(expname, arguments.expname, scan_id_of(conf, arguments.scan_id))


def set_chunks(arguments: argparse.Namespace, conf: Any) -> None:
    """Sets ``chunk_pixels`` and ``chunk_points`` to the conf's ``plot`` block where they are not given."""
    from idr.conf.files import read_block
    from idr.pictures.plots import PlotConfig

    plot = read_block(PlotConfig, conf.get("plot", {}), "plot")
    for name in ("chunk_pixels", "chunk_points"):
        if getattr(arguments, name, None) is None:
            setattr(arguments, name, getattr(plot, name))


def find_exps_folder(name: str) -> Path:
    """Returns the folder of the runs, from its path.

    It is absolute, or relative to the folder that holds code/ (published, tried first), to the working
    directory, or to the files that come with the package, for `trained_models`.

    Raises:
        MissingInputError: There is no such folder.
        InputError: The name is empty.
    """
    from idr.conf.files import project_root

    if not name:
        raise InputError("--exps_folder is empty: expected the name of a folder, such as exps")
    places = list(dict.fromkeys(root / Path(name).expanduser() for root in (project_root(), Path.cwd())))
    for place in (*places, shipped_root() / name):
        if place.is_dir():
            return place
    looked = " nor ".join(str(place) for place in places)
    raise MissingInputError(f"no folder of runs {looked}: train first, or name the folder with --exps_folder")


def find_named_run(path: str, checkpoint: str) -> Path:
    """Returns the folder of a run, relative to the folder of code/ (tried first) or the working directory.

    Args:
        path: ``exps/<name>/<time>``, or ``exps/<name>`` for the latest run there.
        checkpoint: ``latest`` or an epoch, which the run must hold.

    Raises:
        MissingInputError: There is no such run or checkpoint.
    """
    from idr.conf.files import project_root
    from idr.runs.folders import locate_run

    at_root = project_root() / path
    return locate_run(at_root if at_root.is_dir() else Path(path), checkpoint)


def check_new(paths: Iterable[Path], force: bool, flag: str = "--out") -> None:
    """Refuses to replace files, before anything is computed; see `idr.files.check_file`."""
    for path in paths:
        check_file(path, force, flag=flag)


def check_folder(out: Path, names: Sequence[str], force: bool) -> None:
    """Refuses a folder that is a file or that holds files of these names; see `check_new`."""
    if out.is_file():
        raise InputError(f"--out {out} is a file; expected a folder")
    check_new([out / name for name in names], force)
