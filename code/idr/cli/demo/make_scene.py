"""``make_demo_scene.py``: writes the built-in scene, with exact and noisy cameras and the exact surface."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.cli.shared.commands import command_line, scene_flags
from idr.cli.shared.common import make_parser, run_command, say
from idr.cli.shared.flags import add_switches
from idr.errors import InputError
from idr.places import BESIDE_CODE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from idr.demo.teapot import Array

_EXAMPLES = """  %(prog)s
  %(prog)s --img_res 300 400 --views 48 --holdout 12 --out data/demo/scan2
  %(prog)s --noise_degrees 3 --noise_center 0.06 --force"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Writes the built-in scene, a glazed teapot, as a data folder: image/, mask/, cameras.npz, noisy "
        "cameras_linear_init.npz and exact_surface.ply (world coordinates).",
        _EXAMPLES,
        "demo-scene",
    )
    parser.add_argument("--out", help=f"folder to write; default: data/demo/scan1 {BESIDE_CODE}")
    parser.add_argument("--seed", type=int, default=0, help="seed of camera positions and of their noise")
    parser.add_argument("--views", type=int, default=24, help="training views")
    parser.add_argument("--holdout", type=int, default=6, help="additional held-out views")
    parser.add_argument("--noise_degrees", type=float, default=1.5, help="mean error of the noisy rotations")
    center = "mean error of the noisy camera centers, in unit-sphere units"
    parser.add_argument("--noise_center", "--noise_centre", type=float, default=0.03, help=center)
    add_render_arguments(parser, img_res=(128, 160), supersampling=4)
    add_switches(parser, force="replace a scene that this command wrote")
    return parser


def add_render_arguments(
    parser: argparse.ArgumentParser, img_res: tuple[int, int], supersampling: int
) -> None:
    """Adds ``--img_res`` and ``--supersampling`` with their defaults, and ``--mesh_resolution``."""
    sides, size = ("HEIGHT", "WIDTH"), "size of the images, pixels"
    parser.add_argument("--img_res", type=int, nargs=2, default=[*img_res], metavar=sides, help=size)
    samples = "samples along each side of a pixel"
    parser.add_argument("--supersampling", type=int, default=supersampling, help=samples)
    grid = "grid samples along each side for the exact surface"
    parser.add_argument("--mesh_resolution", type=int, default=192, help=grid)


def render_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that both built-in scenes have, from ``--seed``, ``--views`` and the above."""
    same = {name: getattr(arguments, name) for name in ("seed", "supersampling", "mesh_resolution")}
    return {"num_views": arguments.views, "img_res": tuple(arguments.img_res), **same}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _make_scene)


def _make_scene(arguments: argparse.Namespace) -> None:
    from idr.conf.files import project_root
    from idr.demo.scene import SceneSettings, write_scene

    noise = {"noise_degrees": arguments.noise_degrees, "noise_center": arguments.noise_center}
    settings = SceneSettings(num_holdout=arguments.holdout, **noise, **render_settings(arguments))
    folder = Path(arguments.out).expanduser() if arguments.out else project_root() / "data" / "demo" / "scan1"
    if re.fullmatch(r"scan0[0-9]+", folder.name):
        raise InputError(f"--out {folder}: training looks for scan{int(folder.name[4:])}; expected that name")
    began = time.monotonic()
    write_scene(folder, settings, extract_exact, overwrite=arguments.force)
    height, width = settings.img_res
    say(
        f"wrote {folder}: {settings.num_views} views to train on and {settings.num_holdout} held out, "
        f"{width} x {height} pixels, exact and noisy cameras, exact surface, in "
        f"{time.monotonic() - began:.0f} s"
    )
    if settings != SceneSettings(seed=settings.seed) and re.fullmatch(r"scan\d+", folder.name):
        keys = {"img_res": list(settings.img_res), "holdout": list(settings.holdout)}
        flags = scene_flags(folder.resolve(), **keys)
        say(f"next: {command_line('train', '--conf', './confs/fast.conf', '--nepoch', 113, *flags)}")


def extract_exact(
    sdf: Callable[[Array], Array], half_side: float, resolution: int
) -> tuple[Array, NDArray[np.integer]]:
    """Returns vertices (V, 3) and faces (F, 3) of the zero set of `sdf` in a cube, by marching cubes."""
    import numpy as np
    import torch

    from idr.meshing.extract import extract_mesh
    from idr.meshing.grids import uniform_grid

    grid = uniform_grid(half_side, resolution)
    mesh = extract_mesh(lambda x: torch.from_numpy(sdf(x.double().numpy())), grid)
    assert mesh is not None
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


if __name__ == "__main__":
    raise SystemExit(main())
