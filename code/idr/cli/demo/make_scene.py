"""``make_demo_scene.py``: writes the built-in scene, with exact and noisy cameras and the exact surface."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idr.cli.shared.common import add_force_argument, add_seed_argument, make_parser, parse, run, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from idr.demo.scene import SceneSettings
    from idr.demo.teapot import Array

_EXAMPLES = """  python preprocess/make_demo_scene.py
  python preprocess/make_demo_scene.py --img_res 300 400 --views 48 --holdout 12 --out data/demo/scan2
  python preprocess/make_demo_scene.py --noise_degrees 3 --noise_center 0.06 --force"""


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Writes the built-in scene, a glazed teapot, as a data folder: image/, mask/, cameras.npz, noisy "
        "cameras_linear_init.npz and exact_surface.ply (world coordinates).",
        _EXAMPLES,
    )
    parser.add_argument("--out", default=None, help="folder to write; default: data/demo/scan1 beside code/")
    add_seed_argument(parser, "camera positions and of their noise")
    parser.add_argument("--views", type=int, default=24, help="training views")
    parser.add_argument("--holdout", type=int, default=6, help="additional held-out views")
    parser.add_argument("--noise_degrees", type=float, default=1.5, help="mean error of the noisy rotations")
    parser.add_argument(
        "--noise_center",
        "--noise_centre",
        type=float,
        default=0.03,
        help="mean error of the noisy camera centers, in unit-sphere units",
    )
    add_render_arguments(parser, img_res=(128, 160), supersampling=4)
    add_force_argument(parser, "a scene that this command wrote")
    return parser


def add_render_arguments(
    parser: argparse.ArgumentParser, img_res: tuple[int, int], supersampling: int
) -> None:
    """Adds ``--img_res`` and ``--supersampling`` with their defaults, and ``--mesh_resolution``."""
    parser.add_argument(
        "--img_res",
        type=int,
        nargs=2,
        default=[*img_res],
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images, pixels",
    )
    parser.add_argument(
        "--supersampling", type=int, default=supersampling, help="samples along each side of a pixel"
    )
    parser.add_argument(
        "--mesh_resolution", type=int, default=192, help="grid samples along each side for the exact surface"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    arguments = parse(_parser(), argv)
    return run(lambda: _make_scene(arguments))


def _make_scene(arguments: argparse.Namespace) -> None:
    from idr.conf.files import project_root
    from idr.demo.scene import SceneSettings, write_scene

    settings = SceneSettings(
        seed=arguments.seed,
        num_views=arguments.views,
        num_holdout=arguments.holdout,
        img_res=(arguments.img_res[0], arguments.img_res[1]),
        supersampling=arguments.supersampling,
        noise_degrees=arguments.noise_degrees,
        noise_center=arguments.noise_center,
        mesh_resolution=arguments.mesh_resolution,
    )
    folder = Path(arguments.out) if arguments.out else project_root() / "data" / "demo" / "scan1"
    began = time.monotonic()
    write_scene(folder, settings, extract_exact, overwrite=arguments.force)
    say(f"wrote {folder}: {_summary(settings)}, in {time.monotonic() - began:.0f} s")
    if settings != SceneSettings(seed=settings.seed):
        holdout = ",".join(str(index) for index in settings.holdout)
        height, width = settings.img_res
        say(f"train it with --set dataset.img_res=[{height},{width}] --set dataset.holdout=[{holdout}]")


def _summary(settings: SceneSettings) -> str:
    height, width = settings.img_res
    return (
        f"{settings.num_views} views to train on and {settings.num_holdout} held out, "
        f"{width} x {height} pixels, exact and noisy cameras, exact surface"
    )


def extract_exact(
    sdf: Callable[[Array], Array], half_side: float, resolution: int
) -> tuple[Array, NDArray[np.integer]]:
    """Returns vertices (V, 3) and faces (F, 3) of the zero set of `sdf` in a cube, by marching cubes."""
    import numpy as np
    import torch

    from idr.meshing.extract import extract_mesh
    from idr.meshing.grids import uniform_grid

    mesh = extract_mesh(
        lambda x: torch.from_numpy(sdf(x.double().numpy())), uniform_grid(half_side, resolution)
    )
    assert mesh is not None
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


if __name__ == "__main__":
    raise SystemExit(main())
