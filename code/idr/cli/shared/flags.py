"""Flags that several commands have, and checks of their values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from idr.cli.shared.common import add_conf_arguments
from idr.errors import InputError

LATEST = "latest"
SUPERSAMPLES = (1, 8)
"""Range of the rays along each side of a pixel: 8 give 64 shades of an edge, below the 255 that a file holds.
More rays only take time."""
NARROW = 96
"""Units per layer up to which a network runs on one thread by default."""

FLAGS: dict[str, dict[str, Any]] = {
    "checkpoint": dict(default=LATEST, help="epoch of the checkpoint, or the latest"),
    "chunk_pixels": dict(type=int, help="pixels rendered at once, bounds memory; default: plot.chunk_pixels"),
    "chunk_points": dict(
        type=int, help="points evaluated at once, bounds memory; default: plot.chunk_points"
    ),
    "coordinates": dict(
        choices=("world", "unit"),
        default="world",
        help="world = the given cameras' coordinates; unit = the unit sphere that the network is trained in",
    ),
    "device": dict(help="cpu, cuda, cuda:N or mps; default: cuda if available, else cpu"),
    "evals_folder": dict(
        help="folder of the results, absolute or relative to the folder of code/; default: evals beside the "
        "folder of the runs"
    ),
    "expname": dict(default="", help="suffix of the conf's train.expname, as given in training"),
    "exps_folder": dict(
        default="exps",
        help="folder of the runs: an absolute path, or relative to the folder of code/, if there is one, "
        "or else to the working directory",
    ),
    "fps": dict(type=float, help="frames per second of the film"),
    "gpu": dict(
        default="auto",
        help="GPU to use: auto = the least used one, if any; ignore = leave the environment as it is; "
        "a number = value for CUDA_VISIBLE_DEVICES",
    ),
    "img_res": dict(type=int, nargs=2, metavar=("H", "W"), help="size; default: the photographs'"),
    "is_uniform_grid": dict(
        action="store_true",
        help="sample the axis-aligned cube around the bounding sphere, not a box along the surface's axes",
    ),
    "resolution": dict(type=int, help="grid samples along the mesh's shortest side"),
    "scan_id": dict(type=int, default=-1, help="scene number; -1 for the conf's dataset.scan_id, if any"),
    "supersample": dict(
        type=int,
        default=2,
        metavar="N",
        help="N x N rays per pixel at silhouettes and edges, 1 to 8; 1 = one ray per pixel everywhere",
    ),
    "threads": dict(
        type=int,
        help="CPU threads; default: torch's choice, see OMP_NUM_THREADS; training of networks of up to "
        f"{NARROW} units per layer takes at most one, two with the compiled tracer",
    ),
    "timestamp": dict(default=LATEST, help="folder of the run, or the latest with a checkpoint"),
    "use_linear_init": dict(
        action="store_true", help="use the noisy cameras_linear_init.npz instead of cameras.npz"
    ),
    "video": dict(
        type=Path, help="also write a film, .gif or .mp4 (MP4 needs pip install 'idr-surface[video]')"
    ),
}
"""Arguments of `add_argument` for each flag."""


def add_flags(parser: argparse._ActionsContainer, *names: str, **defaults: Any) -> None:
    """Adds flags of `FLAGS` in this order; the keywords are the command's own defaults."""
    for name in names:
        parser.add_argument(f"--{name}", **FLAGS[name])
    parser.set_defaults(**defaults)


def add_switches(parser: argparse._ActionsContainer, **helps: str) -> None:
    """Adds flags without a value, False unless given: ``--<name>`` with its help text."""
    for name, text in helps.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the conf, of the device and of the run."""
    add_conf_arguments(parser)
    add_flags(parser, "expname", "exps_folder", "evals_folder")
    add_flags(parser, "gpu", "device", "timestamp", "checkpoint", "scan_id")


def check_at_least(arguments: argparse.Namespace, **smallest: int) -> None:
    """Refuses values of flags, unless absent (None), below their smallest legal value.

    Raises:
        InputError: The first such value.
    """
    for flag, least in smallest.items():
        value = getattr(arguments, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag} {value}: expected {least} or more")


def check_within(arguments: argparse.Namespace, **ranges: tuple[int, int]) -> None:
    """Refuses values of flags outside of their smallest and largest legal value; see `check_at_least`."""
    for flag, (least, most) in ranges.items():
        if not least <= getattr(arguments, flag) <= most:
            raise InputError(f"--{flag} {getattr(arguments, flag)}: expected {least} to {most}")


def check_frame_arguments(arguments: argparse.Namespace) -> None:
    """Refuses flags of rendered frames and of their film out of range."""
    check_at_least(arguments, frames=1, chunk_pixels=1)
    if not arguments.fps > 0:
        raise InputError(f"--fps {arguments.fps}: expected a positive number")
    if arguments.img_res and min(arguments.img_res) < 1:
        raise InputError(f"--img_res {arguments.img_res}: expected height and width of at least 1")
