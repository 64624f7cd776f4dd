r"""Accuracy of cameras estimated from photographs of an object that turns before a camera that stands still.

    python benchmarks/turntable.py --out turntable/

The teapot of the demo stands on a turntable. A desk and a wall, both with a sharp texture, stand still, as
camera and exposure do. Prints, for each turntable (`prints` or `plain`) and each way, the number of
registered photographs, rotation errors in degrees after the best similarity, and seconds. Ways (``--ways``):
`once`, one attempt with features everywhere; `off`, further attempts of this kind; `auto`, the defaults.
Writes ``turntable.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import imageio.v3 as iio  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from shared import machine  # noqa: E402

from idr.cli.shared.common import make_parser, run, say  # noqa: E402
from idr.demo.cameras import look_at  # noqa: E402
from idr.demo.photo_render import TABLE_HEIGHT, Room, render_photo  # noqa: E402
from idr.demo.photo_scene import phone_lens  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.evaluation.camera_error import camera_errors  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402
from idr.geometry.alignment import align_cameras  # noqa: E402
from idr.importers.photographs.structure_from_motion import (  # noqa: E402
    ReconstructionSettings,
    reconstruct,
)

Array = NDArray[np.float64]
TURNTABLE_RADIUS, DESK_DROP, WALL_DISTANCE = 1.0, 0.12, 2.5
"""Radius of the turntable, height of its top above the desk, and distance of the wall behind its axis."""
PLAIN = np.array([0.62, 0.6, 0.57])
"""Color of the plain turntable."""
DISTANCE, ELEVATION, NOISE = 3.1, 24.0, 0.006
WAYS: dict[str, dict[str, Any]] = {
    "once": {"turntable": "off", "second_try": False},
    "off": {"turntable": "off"},
    "auto": {},
}


class Studio(Room):
    """A room in which the turntable turns with the object, while desk, wall and camera stand still."""

    def __init__(self, generator: np.random.Generator, patterned: bool) -> None:
        super().__init__(generator)
        self.patterned, self.backdrop = patterned, self.table[::-1].transpose(1, 0, 2)

    def color(self, origin: Array, directions: Array) -> Array:
        """(N, 3) colors of rays from a center above the turntable that miss the object."""
        turn = -np.arctan2(origin[1], origin[0])
        still = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
        eye, rays = still @ origin, directions @ still.T
        rgb = self._texel(*(eye + _along(eye[0] + WALL_DISTANCE, -rays[:, 0]) * rays)[:, 1:].T)
        desk = eye + _along(eye[2] - TABLE_HEIGHT + DESK_DROP, -rays[:, 2]) * rays
        on_desk = (rays[:, 2] < -1e-6) & (desk[:, 0] > -WALL_DISTANCE)
        rgb[on_desk] = self._texel(*desk[on_desk, :2].T)
        top = origin + _along(origin[2] - TABLE_HEIGHT, -directions[:, 2]) * directions
        on_top = (directions[:, 2] < -1e-6) & (np.hypot(top[:, 0], top[:, 1]) < TURNTABLE_RADIUS)
        rgb[on_top] = self._table_color(top[on_top]) if self.patterned else PLAIN
        return rgb

    def _texel(self, x: Array, y: Array) -> Array:
        side = len(self.backdrop)
        rows, columns = (np.floor(place / 5.0 * side).astype(int) % side for place in (x, y))
        return self.backdrop[rows, columns]


def _along(distance: float, speed: Array) -> Array:
    return (distance / np.where(np.abs(speed) < 1e-9, 1e-9, speed))[:, None]


def write_photographs(folder: Path, patterned: bool, views: int, size: tuple[int, int]) -> Array:
    """Writes photographs, unless they are there, and returns the (B, 4, 4) poses relative to the object."""
    lens, noise = phone_lens(size), np.random.default_rng(1)
    angles = 2 * np.pi * np.arange(views) / views
    across, up = np.cos(np.radians(ELEVATION)), np.sin(np.radians(ELEVATION))
    target = np.array([0.0, 0.0, -0.08])
    away = np.stack([np.cos(angles) * across, np.sin(angles) * across, np.full(views, up)], axis=1)
    poses = np.stack([look_at(target + DISTANCE * direction, target, steep=1.0) for direction in away])
    if not folder.exists():
        folder.mkdir(parents=True)
        studio = Studio(np.random.default_rng(0), patterned)
        for k, pose in enumerate(poses):
            rgb = render_photo(lens, pose, size, 2, studio).rgb
            rgb = rgb + NOISE * noise.standard_normal(rgb.shape)
            iio.imwrite(folder / f"{k:04d}.png", np.rint(255 * rgb.clip(0, 1)).astype(np.uint8))
    return poses


def score(photographs: Path, work: Path, truth: Array, settings: ReconstructionSettings) -> dict[str, Any]:
    """Registered photographs, rotation errors in degrees, and seconds."""
    began = time.monotonic()
    try:
        found = reconstruct(photographs, work, settings, say)
    except InputError as error:
        return {"refused": str(error), "seconds": time.monotonic() - began}
    matrices = [np.vstack([view.world_to_camera, [0, 0, 0, 1]]) for view in found.views]
    poses, exact = np.linalg.inv(np.stack(matrices)), truth[[int(Path(v.name).stem) for v in found.views]]
    errors = camera_errors(poses, exact, align_cameras(poses, exact)).rotation_degrees
    result = {"registered": len(poses), "mean": float(errors.mean()), "worst": float(errors.max())}
    return {**result, "seconds": time.monotonic() - began}


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser(__doc__.split("\n\n")[0], "  python benchmarks/turntable.py --out turntable/")
    parser.add_argument("--out", type=Path, required=True, help="folder for photographs and results")
    parser.add_argument("--views", type=int, default=36)
    parser.add_argument("--img_res", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="settings to compare")
    return parser


def measure(arguments: argparse.Namespace) -> None:
    """Scores all ways, prints a line for each and writes the JSON file."""
    results: dict[str, Any] = {}
    for table in ("prints", "plain"):
        photographs = arguments.out / table / "photographs"
        truth = write_photographs(photographs, table == "prints", arguments.views, tuple(arguments.img_res))
        for way in arguments.ways:
            settings = ReconstructionSettings(threads=1, min_registered=3, **WAYS[way])
            row = score(photographs, arguments.out / table / way, truth, settings)
            results[f"{table}, {way}"] = row
            say(f"{table}, {way}: {row}")
    content = {"turntable": results, **machine()}
    write_text_atomic(arguments.out / "turntable.json", json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    parsed = build_parser().parse_args()
    raise SystemExit(run(lambda: measure(parsed)))
