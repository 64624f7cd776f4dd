"""Flags that choose a trained run and what the commands on runs share, and opening the chosen run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.common import (
    add_conf_arguments,
    add_device_arguments,
    add_scan_id_argument,
    add_switches,
    check_at_least,
    choose_device,
    say,
)
from idr.errors import InputError, MissingInputError

if TYPE_CHECKING:
    from idr.runs import Run

Group = Any
"""A parser or one of its argument groups."""

MAX_SUPERSAMPLE = 8
"""Most rays along each side of a pixel: 64 shades of an edge, below the 255 that a file holds. More rays only
take time."""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the conf, of the device and of the run."""
    add_conf_arguments(parser)
    add_expname_argument(parser)
    add_exps_folder_argument(parser)
    add_device_arguments(parser)
    parser.add_argument(
        "--timestamp", default="latest", help="folder of the run, or the latest with a checkpoint"
    )
    parser.add_argument("--checkpoint", default="latest", help="epoch of the checkpoint, or the latest")
    add_scan_id_argument(parser)


def add_expname_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--expname``."""
    suffix = "suffix of the conf's train.expname, as given in training"
    parser.add_argument("--expname", default="", help=suffix)


def add_exps_folder_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--exps_folder``."""
    places = "an absolute path, or relative to the folder of code/ (tried first) or to the working directory"
    parser.add_argument("--exps_folder", default="exps", help=f"folder of the runs: {places}")


def add_chunk_arguments(group: Group, *names: str) -> None:
    """Adds ``--chunk_pixels``, ``--chunk_points`` or both."""
    what = {"chunk_pixels": "pixels rendered", "chunk_points": "points evaluated"}
    for name in names:
        help_text = f"{what[name]} at once, bounds memory; default: plot.{name}"
        group.add_argument(f"--{name}", type=int, help=help_text)


def add_resolution_argument(group: Group, default: int) -> None:
    """Adds ``--resolution`` of a mesh."""
    group.add_argument(
        "--resolution", type=int, default=default, help="grid samples along the mesh's shortest side"
    )


def add_uniform_grid_argument(group: Group) -> None:
    """Adds ``--is_uniform_grid``."""
    cube = "sample the axis-aligned cube around the bounding sphere, not a box along the surface's axes"
    add_switches(group, is_uniform_grid=cube)


def add_coordinates_argument(group: Group) -> None:
    """Adds ``--coordinates``."""
    frames = "world = the given cameras' coordinates; unit = the unit sphere that the network is trained in"
    group.add_argument("--coordinates", choices=("world", "unit"), default="world", help=frames)


def add_out_folder_argument(group: Group, name: str) -> None:
    """Adds ``--out`` for a folder whose default is `name` in the run's results."""
    folder = f"folder to write; default: evals/<expname><suffix>[_<scan>]/{name}"
    group.add_argument("--out", type=Path, metavar="FOLDER", help=folder)


def add_frame_arguments(group: Group, fps: float) -> None:
    """Adds the flags of rendered frames and their film: size, film, frame rate, chunks."""
    group.add_argument(
        "--img_res", type=int, nargs=2, metavar=("H", "W"), help="size; default: the photographs'"
    )
    group.add_argument("--video", type=Path, help="also write a film, .gif or .mp4 (MP4 needs idr[video])")
    group.add_argument("--fps", type=float, default=fps, help="frames per second of the film")
    add_chunk_arguments(group, "chunk_pixels")


def add_supersample_argument(group: Group) -> None:
    """Adds ``--supersample`` of images for people; scores take one ray per pixel."""
    help_text = "N x N rays per pixel at silhouettes and edges, 1 to 8; 1 = one ray per pixel everywhere"
    group.add_argument("--supersample", type=int, default=2, metavar="N", help=help_text)


def check_supersample(arguments: argparse.Namespace) -> None:
    """Refuses a ``--supersample`` out of range."""
    if not 1 <= arguments.supersample <= MAX_SUPERSAMPLE:
        raise InputError(f"--supersample {arguments.supersample}: expected 1 to {MAX_SUPERSAMPLE}")


def check_frame_arguments(arguments: argparse.Namespace) -> None:
    """Refuses frame flags out of range."""
    check_at_least(arguments, frames=1, chunk_pixels=1)
    if not arguments.fps > 0:
        raise InputError(f"--fps {arguments.fps}: expected a positive number")
    if arguments.img_res and min(arguments.img_res) < 1:
        raise InputError(f"--img_res {arguments.img_res}: expected height and width of at least 1")


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
        The run, and the folder of its results ``evals/<name>/``.

    Raises:
        MissingInputError: No such conf, run, checkpoint or scene.
        InputError: They do not belong together.
    """
    from idr.conf.files import load_conf

    # Before torch is imported, so that a mistake in the conf is reported at once.
    conf = load_conf(arguments.conf, arguments.overrides)
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
    return run, evals_folder(name)


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

    It is absolute, or relative to the folder that holds code/ (published, tried first) or to the working
    directory.

    Raises:
        MissingInputError: It is in neither place.
        InputError: The name is empty.
    """
    from idr.conf.files import project_root

    if not name:
        raise InputError("--exps_folder is empty: expected the name of a folder, such as exps")
    places = list(dict.fromkeys(root / Path(name).expanduser() for root in (project_root(), Path.cwd())))
    for place in places:
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


def check_new(paths: Sequence[Path], force: bool) -> None:
    """Refuses to replace files, before anything is computed.

    Raises:
        InputError: A file exists and `force` is not set, or a folder has its name.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected the name of a file: choose another --out")
        if path.exists() and not force:
            raise InputError(f"{path} is there already: add --force to replace it, or choose another --out")


def check_folder(out: Path, names: Sequence[str], force: bool) -> None:
    """Refuses a folder that is a file or that holds files of these names; see `check_new`."""
    if out.is_file():
        raise InputError(f"--out {out} is a file; expected a folder")
    check_new([out / name for name in names], force)
