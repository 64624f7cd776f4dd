r"""Reconstruction of thin parts: a scene of rods with known thickness, and their share in trained runs.

    python benchmarks/thin_scene.py --write data/thin/scan1
    python benchmarks/fast.py --confs ./confs/fast.conf=113 --set dataset.data_dir=thin --last \
        --out results/thin
    python benchmarks/thin_scene.py --runs results/thin/0_fast/exps/fast_1

``--write`` writes the scene: upright rods in a ring on a plate, seen by the built-in scene's cameras, 24
training views and 6 held out. Thickness is given in pixels at the cameras' mean distance. ``--runs``
evaluates trained runs on planes across each rod, within a pixel of it.

Prints a row per rod and two columns per run: the share of its length where the signed distance is negative
anywhere, and the diameter there (of the circle with the same area) over the true diameter.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import imageio.v3 as iio  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.demo.cameras import (  # noqa: E402
    CAMERA_DISTANCE,
    UNIT_TO_WORLD,
    camera_intrinsics,
    world_matrix,
)
from idr.demo.render import RenderedView, camera_rays, subpixel_offsets  # noqa: E402
from idr.demo.scene import SceneSettings, scene_poses  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.files import whole_folder  # noqa: E402
from idr.runs import Run, load_run  # noqa: E402

Array = NDArray[np.float64]

THICKNESSES = (8.0, 5.0, 3.0, 2.0, 1.5, 1.0)
"""Diameters of the rods in pixels."""

RING, BOTTOM, TOP = 0.38, -0.42, 0.46
"""Distance of the rods from the center, and heights of their ends, in unit-sphere units."""

PLATE_RADIUS, PLATE_BOTTOM = 0.52, -0.49
SETTINGS = SceneSettings()
PIXEL = CAMERA_DISTANCE / camera_intrinsics(SETTINGS.img_res)[0, 0]
"""Width of a pixel at the center of the unit sphere."""

CUTS, CUT_SIDE = 200, 41
"""Planes along a rod, and samples along a side of the square in each."""

_LIGHT, _AMBIENT = np.array([0.45, -0.6, 0.66]) / np.linalg.norm([0.45, -0.6, 0.66]), 0.45


def cylinders() -> Array:
    """The scene: (C, 5) upright cylinders (x, y, radius, bottom, top), the plate first."""
    angles = 2 * np.pi * np.arange(len(THICKNESSES)) / len(THICKNESSES)
    rods = [
        (RING * np.cos(angle), RING * np.sin(angle), PIXEL * thickness / 2, BOTTOM, TOP)
        for angle, thickness in zip(angles, THICKNESSES, strict=True)
    ]
    return np.array([(0.0, 0.0, PLATE_RADIUS, PLATE_BOTTOM, BOTTOM), *rods])


def hit_cylinder(origin: Array, directions: Array, cylinder: Array) -> tuple[Array, Array]:
    """Intersects rays with one cylinder, its flat ends included.

    Args:
        origin: (3,) outside the cylinder.
        directions: (R, 3) unit vectors.
        cylinder: (5,) see `cylinders`.

    Returns:
        (R,) depth of the first hit, infinite for misses; (R, 3) outward normal.
    """
    x, y, radius, bottom, top = cylinder
    across, along = directions[:, :2], directions[:, 2]
    from_axis = origin[:2] - (x, y)
    depth, normals = np.full(len(directions), np.inf), np.zeros_like(directions)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = (across**2).sum(axis=1)
        middle = across @ from_axis
        root = np.sqrt(middle**2 - squared * (from_axis @ from_axis - radius**2))
        side = (-middle - root) / squared
        height = origin[2] + side * along
        hit = (side > 0) & (height >= bottom) & (height <= top)
        depth[hit] = side[hit]
        normals[hit, :2] = (from_axis + side[hit, None] * across[hit]) / radius
        for end, upward in ((bottom, -1.0), (top, 1.0)):
            flat = (end - origin[2]) / along
            distance = np.linalg.norm(from_axis + flat[:, None] * across, axis=1)
            hit = (flat > 0) & (distance <= radius) & (flat < depth)
            depth[hit], normals[hit] = flat[hit], (0.0, 0.0, upward)
    return depth, normals


def shade(points: Array, normals: Array, part: NDArray[np.integer]) -> Array:
    """Diffuse colors (N, 3): a checkered plate, and rods striped along their length.

    Args:
        points: (N, 3).
        normals: (N, 3) unit normals.
        part: (N,) index of the cylinder.
    """
    checker = (np.floor(points[:, 0] / 0.15) + np.floor(points[:, 1] / 0.15)) % 2
    stripe = np.floor(points[:, 2] / 0.12) % 2
    dark = np.where(part == 0, checker, stripe)[:, None]
    plate = np.where(dark, [0.25, 0.45, 0.55], [0.85, 0.80, 0.65])
    rods = np.where(dark, [0.75, 0.25, 0.20], [0.90, 0.70, 0.30])
    light = _AMBIENT + (1 - _AMBIENT) * np.maximum(normals @ _LIGHT, 0.0)
    return np.where(part[:, None] == 0, plate, rods) * light[:, None]


def render(intrinsics: Array, pose: Array, img_res: tuple[int, int], supersampling: int) -> RenderedView:
    """Renders a view.

    Args:
        intrinsics: (4, 4) K.
        pose: (4, 4) camera-to-world, outside the object.
        img_res: Height and width.
        supersampling: Samples along each side of a pixel.

    Returns:
        The view; each pixel is the mean of its samples.
    """
    height, width = img_res
    offsets = subpixel_offsets(supersampling)
    rows, columns = np.divmod(np.arange(height * width), width)
    uv = np.column_stack((columns, rows))[:, None] + offsets  # (H*W, S, 2)
    origin, directions = camera_rays(intrinsics, pose, uv.reshape(-1, 2))
    hits = [hit_cylinder(origin, directions, cylinder) for cylinder in cylinders()]
    depths = np.stack([depth for depth, _ in hits])  # (C, R)
    part = depths.argmin(axis=0)
    depth = depths.min(axis=0)
    hit = np.isfinite(depth)
    normals = np.stack([normal for _, normal in hits])[part, np.arange(len(part))]
    rgb = np.ones_like(directions)
    rgb[hit] = shade(origin + depth[hit, None] * directions[hit], normals[hit], part[hit])
    shape = (height, width, len(offsets))
    return RenderedView(rgb.reshape(*shape, 3).mean(axis=2), hit.reshape(shape).mean(axis=2))


def write(folder: Path) -> None:
    """Writes the scene's folder, completely or not at all; raises `InputError` if it exists."""
    if folder.exists():
        raise InputError(f"{folder} exists; choose another --write or move it away")
    intrinsics, (poses, _) = camera_intrinsics(SETTINGS.img_res), scene_poses(SETTINGS)
    matrices: dict[str, NDArray[Any]] = {}
    with whole_folder(folder) as unfinished:
        for kind in ("image", "mask"):
            (unfinished / kind).mkdir()
        for i, pose in enumerate(poses):
            view = render(intrinsics, pose, SETTINGS.img_res, SETTINGS.supersampling)
            pixels = np.rint(255 * view.rgb).astype(np.uint8)
            iio.imwrite(unfinished / "image" / f"{i:03d}.png", pixels)
            iio.imwrite(unfinished / "mask" / f"{i:03d}.png", view.mask)
            matrices |= {f"world_mat_{i}": world_matrix(intrinsics, pose), f"scale_mat_{i}": UNIT_TO_WORLD}
        np.savez(unfinished / "cameras.npz", allow_pickle=False, **matrices)
        record = {"thicknesses_pixels": THICKNESSES, "cylinders": cylinders().tolist()}
        (unfinished / "rods.json").write_text(json.dumps(record, indent=2) + "\n")


def cut_rod(run: Run, rod: Array) -> dict[str, float | None]:
    """Measures a rod in a trained run.

    Args:
        run: The run.
        rod: (5,) see `cylinders`.

    Returns:
        ``kept``, the share of its length where any sample within a pixel of it is inside the surface;
        ``diameter`` there, over the true one, None if nothing is left.
    """
    x, y, radius, bottom, top = rod
    reach = radius + PIXEL
    side = np.linspace(-reach, reach, CUT_SIDE)
    across = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    across = across[np.linalg.norm(across, axis=1) <= reach]  # (S, 2)
    # A pixel off the ends, which are rounded in any reconstruction.
    heights = np.linspace(bottom + PIXEL, top - PIXEL, CUTS)
    points = np.empty((CUTS, len(across), 3))
    points[..., :2], points[..., 2] = across + (x, y), heights[:, None]
    inside = np.asarray(run.sdf(points)) < 0  # (CUTS, S)
    kept = inside.any(axis=1)
    if not kept.any():
        return {"kept": 0.0, "diameter": None}
    area = inside[kept].mean() * len(across) * (side[1] - side[0]) ** 2
    return {"kept": float(kept.mean()), "diameter": float(np.sqrt(area / np.pi) / radius)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the scene, measures the rods in runs, or both."""
    if not arguments.write and not arguments.runs:
        raise InputError("nothing to do; expected --write FOLDER, --runs RUN ..., or both")
    if arguments.write:
        write(Path(arguments.write))
        say(f"wrote {arguments.write}")
    rods: dict[str, Any] = {}
    for path in arguments.runs:
        run = load_run(path, device="cpu")
        rods[str(path)] = [cut_rod(run, rod) for rod in cylinders()[1:]]
    return {**machine(), "thicknesses_pixels": THICKNESSES, "rods": rods}


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    runs = result["rods"]
    if not runs:
        return
    say("| thickness (pixels) | " + " | ".join(f"kept, {run} | diameter, {run}" for run in runs) + " |")
    say("| ---: |" + " ---: |" * (2 * len(runs)))
    for k, thickness in enumerate(result["thicknesses_pixels"]):
        cells = []
        for rods in runs.values():
            diameter = rods[k]["diameter"]
            cells.append(f"{rods[k]['kept']:.2f} | {'' if diameter is None else f'{diameter:.2f}'}")
        say(f"| {thickness:g} | " + " | ".join(cells) + " |")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser("Writes a scene of rods, and measures them in runs trained on it.")
    parser.add_argument("--write", default=None, metavar="FOLDER", help="scene to write")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="runs trained on it")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, report))
