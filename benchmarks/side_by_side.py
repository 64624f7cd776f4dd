r"""Compares runs of one scene view by view, in numbers and in an image.

    python benchmarks/side_by_side.py --runs exps/fast_1 exps/demo_1
    python benchmarks/side_by_side.py --runs exps/fast_1 exps/demo_1 --views 11 15:60,20,48,40 --zoom 4 \
        --out crops.png
    python benchmarks/side_by_side.py --runs exps/fast_1 exps/demo_1 --views 11 --show normals --out shape.png

The runs must have one scene and the same training views. Without ``--views``, all held-out views are
compared. Prints a row per view: the angle, at the center of the unit sphere, between its camera and the
nearest (other) training camera, and PSNR and mask IoU of each run, optionally of a crop (column, row, width,
height after a colon). The last lines are means, and two shares over all views:

- thin parts kept: share of rays that hit the surface among the mask pixels removed by an opening with a
  square of ``--thin`` pixels (narrower parts and spikes);
- narrow gaps kept: share of rays that miss the surface among the pixels added by a closing with the square.

``--out`` writes an image with a row of tiles per view, enlarged without interpolation: the photograph, then
one tile per run. ``--show normals`` shows the runs, shaded by the angle between normal and ray; ``--show
lit`` lights them from the side, which shows bumps; ``--show silhouettes`` shows them in gray where surface
and mask agree, red where the surface is missing, blue where it is in excess. ``--rays training`` uses the
tracer of training, which differs with ``strategy = compiled``.
``--json`` writes the numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.evaluation.metrics import mask_iou, masked_psnr  # noqa: E402
from idr.rendering import RenderedImage, render_image, write_image  # noqa: E402
from idr.runs import Camera, Run, load_run  # noqa: E402
from idr.runs.views import View, image_numbers, read_view  # noqa: E402

CHUNK_PIXELS = 20_000
GAP = 4
"""White pixels between enlarged tiles."""

AGREED, MISSING, EXCESS = (0.75, 0.75, 0.75), (0.85, 0.1, 0.1), (0.15, 0.3, 0.95)
LIGHT = (-1.0, -0.6, -0.25)
"""Direction to the light of ``--show lit``, upper left, in the camera's axes (right, down, forward)."""
SHOWN = ("colors", "normals", "lit", "silhouettes")
RAYS = ("evaluation", "training")
MEAN_OF = ("psnr", "iou", "missing", "too_much")


@dataclass(frozen=True)
class ViewCrop:
    """A view to compare.

    Attributes:
        number: Index of the image in its folder.
        crop: Column, row, width and height in pixels, or None for the whole image.
    """

    number: int
    crop: tuple[int, int, int, int] | None = None

    def cut(self, image: Tensor) -> Tensor:
        """Crops a (H, W, ...) image; raises `InputError` if the crop is not inside it."""
        if self.crop is None:
            return image
        column, row, width, height = self.crop
        if column + width > image.shape[1] or row + height > image.shape[0]:
            raise InputError(
                f"--views {self.number}: the crop {self.crop} leaves the image; expected it within "
                f"{image.shape[1]} x {image.shape[0]} (width x height)"
            )
        return image[row : row + height, column : column + width]


def parse_view(text: str) -> ViewCrop:
    """Parses ``NUMBER`` or ``NUMBER:COLUMN,ROW,WIDTH,HEIGHT``; raises `InputError` for anything else."""
    number, colon, rest = text.partition(":")
    sides = rest.split(",") if colon else []
    if all(part.isdigit() for part in (number, *sides)) and len(sides) in (0, 4):
        if not sides:
            return ViewCrop(int(number))
        column, row, width, height = (int(side) for side in sides)
        if width > 0 and height > 0:
            return ViewCrop(int(number), (column, row, width, height))
    raise InputError(f"--views {text}: expected a view and an optional crop, such as 11 or 11:60,20,48,40")


@dataclass(frozen=True)
class PosedView:
    """A view with its camera in a run.

    Attributes:
        camera: The camera, in the run's frame.
        view: Photograph and mask.
        held_out: Whether it was held out of training.
        degrees: Angle to the nearest other training camera, at the center of the unit sphere.
    """

    camera: Camera
    view: View
    held_out: bool
    degrees: float


def find_view(run: Run, number: int) -> PosedView:
    """Finds a training or held-out view by its number; raises `InputError` if the scene has none."""
    height, width = (int(side) for side in run.scene.img_res)
    for dataset, held_out in ((run.scene, False), (run.held_out, True)):
        if dataset is None or number not in image_numbers(dataset):
            continue
        index = image_numbers(dataset).index(number)
        pose = (run.held_out_poses if held_out else run.training_poses)[index]
        intrinsics = (run.held_out_intrinsics if held_out else run.training_intrinsics)[index]
        others = [k for k in range(len(run.scene)) if held_out or k != index]
        degrees = nearest_degrees(pose[:3, 3], run.training_poses[others, :3, 3])
        camera = Camera(intrinsics, pose, (height, width))
        return PosedView(camera, read_view(dataset, index), held_out, degrees)
    raise InputError(f"--views {number}: the scene of {run.folder} has no such view")


def nearest_degrees(center: Tensor, others: Tensor) -> float:
    """Smallest angle at the origin between a point and others, in degrees.

    Args:
        center: (3,).
        others: (N, 3), N at least 1.
    """
    cosines = functional.normalize(others.double(), dim=1) @ functional.normalize(center.double(), dim=0)
    return float(torch.rad2deg(torch.arccos(cosines.max().clamp(-1.0, 1.0))))


def thin_and_gaps(mask: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Finds thin parts and narrow gaps of a mask.

    Args:
        mask: (H, W) bool, the object.
        side: Side of the square in pixels, odd.

    Returns:
        Two (H, W) bool: pixels that an opening removes, and pixels that a closing adds.
    """
    square, levels = np.ones((side, side), np.uint8), mask.numpy().astype(np.uint8)
    opened = cv2.morphologyEx(levels, cv2.MORPH_OPEN, square)
    # Padding with background, so that the image border does not close gaps.
    closed = cv2.morphologyEx(np.pad(levels, side), cv2.MORPH_CLOSE, square)[side:-side, side:-side]
    return mask & ~torch.from_numpy(opened).bool(), torch.from_numpy(closed).bool() & ~mask


def render(run: Run, posed: PosedView, rays: str) -> RenderedImage:
    """Renders a view with one of the tracers in `RAYS`."""
    intrinsics, pose = posed.camera.tensors(run.device)
    run.model.train(rays == "training")
    try:
        mask = posed.view.mask.flatten()
        return render_image(run.model, intrinsics, pose, posed.camera.img_res, mask, CHUNK_PIXELS)
    finally:
        run.model.eval()


def tile(run: Run, posed: PosedView, image: RenderedImage, shown: str) -> Tensor:
    """A run's tile, (H, W, 3) in [0, 1]."""
    if shown == "colors":
        return image.rgb01
    painted = torch.ones(*image.hit.shape, 3)
    mask = posed.view.mask
    if shown == "silhouettes":
        parts = ((image.hit & mask, AGREED), (mask & ~image.hit, MISSING), (image.hit & ~mask, EXCESS))
        for where, color in parts:
            painted[where] = torch.tensor(color)
        return painted
    points, pose = image.points[image.hit], torch.as_tensor(posed.camera.pose)
    towards = functional.normalize(pose[:3, 3] - points, dim=1)
    if shown == "lit":
        towards = functional.normalize(pose[:3, :3] @ pose.new_tensor(LIGHT), dim=0)
    facing = (run.normal(points) * towards).sum(dim=1).clamp(0.0, 1.0)
    painted[image.hit] = (0.1 + 0.85 * facing)[:, None].expand(-1, 3)
    return painted


def sheet(rows: Sequence[Sequence[Tensor]], zoom: int) -> Tensor:
    """Arranges enlarged tiles in rows.

    Args:
        rows: Rows of (h, w, 3) tiles, of one size within a row.
        zoom: Enlargement factor.

    Returns:
        (H, W, 3), white between tiles.
    """
    large = [[part.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1) for part in row] for row in rows]
    width = max(sum(part.shape[1] + GAP for part in row) - GAP for row in large)
    height = sum(row[0].shape[0] + GAP for row in large) - GAP
    whole, top = torch.ones(height, width, 3), 0
    for row in large:
        left = 0
        for part in row:
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
            left += part.shape[1] + GAP
        top += row[0].shape[0] + GAP
    return whole


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises `InputError` if runs have different scenes or held-out views."""
    first = runs[0].scene
    for run in runs[1:]:
        for attribute in ("instance_dir", "img_res", "indices"):
            expected, actual = (getattr(scene, attribute) for scene in (first, run.scene))
            if actual != expected:
                raise InputError(
                    f"{run.folder} and {runs[0].folder} differ in {attribute}: {actual} and {expected}; "
                    "expected runs of one scene that were trained on the same views"
                )


def compare(
    runs: dict[str, Run], view: ViewCrop, thin: int, shown: str, rays: str
) -> tuple[dict[str, Any], list[Tensor]]:
    """Renders a view with every run.

    Returns:
        Its numbers, and its tiles, for colors with the photograph first.
    """
    row: dict[str, Any] = {"view": view.number, "crop": view.crop, "runs": {}}
    tiles: list[Any] = []
    for name, run in runs.items():
        posed = find_view(run, view.number)
        row |= {"held_out": posed.held_out, "degrees": posed.degrees}
        photo, mask = view.cut(posed.view.photo), view.cut(posed.view.mask)
        if shown == "colors" and not tiles:
            tiles.append(photo)
        image = render(run, posed, rays)
        hit = view.cut(image.hit)
        parts, gaps = (view.cut(pixels) for pixels in thin_and_gaps(posed.view.mask, thin))
        row["runs"][name] = {
            "psnr": masked_psnr(view.cut(image.rgb01), photo, mask),
            "iou": mask_iou(hit, mask),
            "missing": int((mask & ~hit).sum()),
            "too_much": int((hit & ~mask).sum()),
            "thin": int(parts.sum()),
            "thin_kept": int((parts & hit).sum()),
            "gaps": int(gaps.sum()),
            "gaps_kept": int((gaps & ~hit).sum()),
        }
        tiles.append(view.cut(tile(run, posed, image, shown)))
    return row, tiles


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares the runs, and writes the image if requested."""
    if arguments.zoom < 1 or arguments.thin < 3 or arguments.thin % 2 == 0:
        raise InputError(
            f"--zoom {arguments.zoom}, --thin {arguments.thin}: expected at least 1, and an odd number from 3"
        )
    torch.set_num_threads(arguments.threads)
    views = [parse_view(text) for text in arguments.views]
    runs: dict[str, Any] = {}
    for path in arguments.runs:
        run = load_run(path, device="cpu", conf=arguments.conf, data_root=arguments.data_root)
        runs[f"{len(runs)} {run.conf['train.expname']}"] = run
    check_comparable(list(runs.values()))
    held_out = next(iter(runs.values())).held_out
    if not views and held_out is None:
        raise InputError("the runs have no held-out views; expected --views NUMBER ...")
    rows, tiles = [], []
    for view in views or [ViewCrop(number) for number in image_numbers(held_out)]:
        row, view_tiles = compare(runs, view, arguments.thin, arguments.show, arguments.rays)
        rows.append(row)
        tiles.append(view_tiles)
    if arguments.out:
        write_image(sheet(tiles, arguments.zoom), Path(arguments.out))
        say(f"wrote {arguments.out}")
    folders = {name: str(run.folder) for name, run in runs.items()}
    return {**machine(), "runs": folders, "thin": arguments.thin, "views": rows, "means": means(rows)}


def means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Means of `MEAN_OF` and shares of thin parts and narrow gaps kept (None without any), by run."""
    result: dict[str, dict[str, float | None]] = {}
    for name in rows[0]["runs"]:
        scores = [row["runs"][name] for row in rows]
        result[name] = {key: float(np.mean([score[key] for score in scores])) for key in MEAN_OF}
        for kind in ("thin", "gaps"):
            pixels = sum(score[kind] for score in scores)
            kept = sum(score[f"{kind}_kept"] for score in scores)
            result[name][f"{kind}_kept"] = kept / pixels if pixels else None
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the table and the means."""
    names = list(result["runs"])
    for name, folder in result["runs"].items():
        say(f"{name}: {folder}")
    titles = [f"{title}, {name}" for name in names for title in ("PSNR", "IoU")]
    say("\n| view | degrees | " + " | ".join(titles) + " |")
    say("| ---: |" + " ---: |" * (1 + len(titles)))
    for row in sorted(result["views"], key=lambda row: row["degrees"]):
        scores = [f"{row['runs'][name]['psnr']:.2f} | {row['runs'][name]['iou']:.4f}" for name in names]
        view = f"{row['view']}{'' if row['held_out'] else ' (training)'}"
        say(f"| {view} | {row['degrees']:.1f} | " + " | ".join(scores) + " |")
    thin = f"square of {result['thin']} pixels"
    for key, title in (
        ("psnr", "mean PSNR (dB)"),
        ("iou", "mean IoU"),
        ("missing", "mask pixels missed, mean"),
        ("too_much", "background pixels hit, mean"),
        ("thin_kept", f"thin parts kept, {thin}"),
        ("gaps_kept", f"narrow gaps kept, {thin}"),
    ):
        values = [result["means"][name][key] for name in names]
        say(f"{title}: " + ", ".join("none" if value is None else f"{value:.4g}" for value in values))


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser("Compares runs of one scene view by view, in numbers and in an image.")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN",
                        help="run folders, or folders with all runs of a name")  # fmt: skip
    parser.add_argument("--views", nargs="+", default=[], metavar="NUMBER[:X,Y,W,H]",
                        help="indices of images, optionally with a crop; default: all held-out")  # fmt: skip
    parser.add_argument("--conf", default=None, help="conf of runs without one of their own")
    parser.add_argument("--show", choices=SHOWN, default=SHOWN[0], help="content of the image")
    parser.add_argument("--rays", choices=RAYS, default=RAYS[0], help="tracer that finds the surface")
    parser.add_argument("--out", default=None, help="PNG file of the image")
    parser.add_argument("--zoom", type=int, default=1, help="enlargement factor")
    parser.add_argument(
        "--thin", type=int, default=5, help="side of the square that defines thin parts, in pixels"
    )
    parser.add_argument("--data_root", default=None, help="folder of data sets; default: data/")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, report))
