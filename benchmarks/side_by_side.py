r"""Where one run is worse than another: the same views by several runs, as figures and as a picture.

    python benchmarks/side_by_side.py --runs exps/fast_1 exps/demo_1
    python benchmarks/side_by_side.py --runs exps/fast_1 exps/demo_1 --views 11 15:60,20,48,40 --zoom 4 \
        --out crops.png
    python benchmarks/side_by_side.py --runs exps/fast_1 exps/demo_1 --views 11 --show normals --out shape.png

Runs are of one scene and were trained on the same views. Without ``--views`` all held-out views are measured.
A row a view: the angle, at the middle of the unit sphere, between its camera and the nearest (other) training
camera, and by run PSNR and mask IoU; with a crop (column, row, width, height after a colon) those of the crop
alone. The last lines are means, and two shares over all these views:

- thin parts kept: of the mask's pixels that an opening by a square of ``--thin`` pixels takes away (parts
  narrower than it, and spikes), how many rays hit the surface;
- narrow gaps kept: of the pixels that a closing by the square adds to the mask, how many are free.

``--out`` writes a row of tiles a view, enlarged without smoothing: the photograph, then a tile a run. With
``--show normals`` there are the runs' tiles alone, gray by the angle between normal and ray; with ``--show
silhouettes`` likewise, gray where surface and mask agree, red where the surface is missing, blue where it is
too much. ``--rays training`` traces as training does, which with ``strategy = compiled`` is another way.
``--json`` writes the figures.
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
"""White pixels between tiles, after enlarging."""

AGREED, MISSING, TOO_MUCH = (0.75, 0.75, 0.75), (0.85, 0.1, 0.1), (0.15, 0.3, 0.95)
SHOWN = ("colors", "normals", "silhouettes")
RAYS = ("evaluation", "training")
MEAN_OF = ("psnr", "iou", "missing", "too_much")


@dataclass(frozen=True)
class Wanted:
    """A view to compare.

    Attributes:
        number: The image's number in its folder.
        crop: Column, row, width and height in pixels, or None for the whole picture.
    """

    number: int
    crop: tuple[int, int, int, int] | None = None

    def cut(self, picture: Tensor) -> Tensor:
        """Returns the crop of a (H, W, ...) picture.

        Raises:
            InputError: The crop is not inside it.
        """
        if self.crop is None:
            return picture
        column, row, width, height = self.crop
        if column + width > picture.shape[1] or row + height > picture.shape[0]:
            raise InputError(
                f"--views {self.number}: the crop {self.crop} leaves the picture of {picture.shape[1]} x "
                f"{picture.shape[0]} (width x height)"
            )
        return picture[row : row + height, column : column + width]


def parse_view(text: str) -> Wanted:
    """Reads ``NUMBER`` or ``NUMBER:COLUMN,ROW,WIDTH,HEIGHT``.

    Raises:
        InputError: It is something else.
    """
    number, colon, rest = text.partition(":")
    sides = rest.split(",") if colon else []
    if all(part.isdigit() for part in (number, *sides)) and len(sides) in (0, 4):
        if not sides:
            return Wanted(int(number))
        column, row, width, height = (int(side) for side in sides)
        if width > 0 and height > 0:
            return Wanted(int(number), (column, row, width, height))
    raise InputError(f"--views {text}: expected a view, and its crop if any, as 11 or 11:60,20,48,40")


@dataclass(frozen=True)
class Place:
    """Where a view stands in a run's scene.

    Attributes:
        camera: The camera, in the run's own frame.
        view: Photograph and mask.
        held_out: Whether it was kept out of training.
        degrees: Angle to the nearest other training camera, at the middle of the unit sphere.
    """

    camera: Camera
    view: View
    held_out: bool
    degrees: float


def find_view(run: Run, number: int) -> Place:
    """Finds a view by its number, held out or not.

    Raises:
        InputError: The scene has no such view.
    """
    height, width = (int(side) for side in run.scene.img_res)
    for dataset, held_out in ((run.scene, False), (run.held_out, True)):
        if dataset is None or number not in image_numbers(dataset):
            continue
        index = image_numbers(dataset).index(number)
        pose = (run.held_out_poses if held_out else run.training_poses)[index]
        intrinsics = (run.held_out_intrinsics if held_out else run.training_intrinsics)[index]
        others = [k for k in range(len(run.scene)) if held_out or k != index]
        degrees = nearest_degrees(pose[:3, 3], run.training_poses[others, :3, 3])
        return Place(Camera(intrinsics, pose, (height, width)), read_view(dataset, index), held_out, degrees)
    raise InputError(f"--views {number}: {run.folder} has no such view in its scene")


def nearest_degrees(center: Tensor, others: Tensor) -> float:
    """Returns the least angle at the origin between a point and others, in degrees.

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
        side: Of the square, in pixels; odd.

    Returns:
        (H, W) bool each: what an opening takes away, and what a closing adds.
    """
    square, levels = np.ones((side, side), np.uint8), mask.numpy().astype(np.uint8)
    opened = cv2.morphologyEx(levels, cv2.MORPH_OPEN, square)
    # Free pixels around the picture: a part near its border encloses nothing there.
    closed = cv2.morphologyEx(np.pad(levels, side), cv2.MORPH_CLOSE, square)[side:-side, side:-side]
    return mask & ~torch.from_numpy(opened).bool(), torch.from_numpy(closed).bool() & ~mask


def render(run: Run, place: Place, rays: str) -> RenderedImage:
    """Renders a view by one of the tracers of `RAYS`."""
    intrinsics, pose = place.camera.tensors(run.device)
    run.model.train(rays == "training")
    try:
        mask = place.view.mask.flatten()
        return render_image(run.model, intrinsics, pose, place.camera.img_res, mask, CHUNK_PIXELS)
    finally:
        run.model.eval()


def tile(run: Run, place: Place, image: RenderedImage, shown: str) -> Tensor:
    """Paints a rendering.

    Returns:
        (H, W, 3) colors in [0, 1].
    """
    if shown == "colors":
        return image.rgb01
    painted = torch.ones(*image.hit.shape, 3)
    mask = place.view.mask
    if shown == "silhouettes":
        parts = ((image.hit & mask, AGREED), (mask & ~image.hit, MISSING), (image.hit & ~mask, TOO_MUCH))
        for where, color in parts:
            painted[where] = torch.tensor(color)
        return painted
    points = image.points[image.hit]
    rays = functional.normalize(points - torch.as_tensor(place.camera.pose)[:3, 3], dim=1)
    facing = -(run.normal(points) * rays).sum(dim=1).clamp(-1.0, 0.0)
    painted[image.hit] = (0.1 + 0.85 * facing)[:, None].expand(-1, 3)
    return painted


def sheet(rows: Sequence[Sequence[Tensor]], zoom: int) -> Tensor:
    """Puts tiles beside and below one another, enlarged.

    Args:
        rows: Rows of (h, w, 3) tiles; those of a row are of one size.
        zoom: Pixels along a side for one.

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


def check_alike(runs: Sequence[Run]) -> None:
    """Refuses runs whose figures cannot stand beside one another.

    Raises:
        InputError: They are of other scenes, or hold out other views.
    """
    first = runs[0].scene
    for run in runs[1:]:
        for what in ("instance_dir", "img_res", "indices"):
            ours, theirs = (getattr(scene, what) for scene in (first, run.scene))
            if ours != theirs:
                raise InputError(
                    f"{run.folder} and {runs[0].folder} differ in {what}: {theirs} and {ours}; expected runs "
                    "of one scene that were trained on the same views"
                )


def compare(
    runs: dict[str, Run], wanted: Wanted, thin: int, shown: str, rays: str
) -> tuple[dict[str, Any], list[Tensor]]:
    """Renders a view by every run.

    Returns:
        Its figures, and its tiles, the photograph first where colors are shown.
    """
    row: dict[str, Any] = {"view": wanted.number, "crop": wanted.crop, "runs": {}}
    tiles = []
    for name, run in runs.items():
        place = find_view(run, wanted.number)
        row |= {"held_out": place.held_out, "degrees": place.degrees}
        photo, mask = wanted.cut(place.view.photo), wanted.cut(place.view.mask)
        if shown == "colors" and not tiles:
            tiles.append(photo)
        image = render(run, place, rays)
        hit = wanted.cut(image.hit)
        parts, gaps = (wanted.cut(pixels) for pixels in thin_and_gaps(place.view.mask, thin))
        row["runs"][name] = {
            "psnr": masked_psnr(wanted.cut(image.rgb01), photo, mask),
            "iou": mask_iou(hit, mask),
            "missing": int((mask & ~hit).sum()),
            "too_much": int((hit & ~mask).sum()),
            "thin": int(parts.sum()),
            "thin_kept": int((parts & hit).sum()),
            "gaps": int(gaps.sum()),
            "gaps_kept": int((gaps & ~hit).sum()),
        }
        tiles.append(wanted.cut(tile(run, place, image, shown)))
    return row, tiles


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares the runs, and writes the picture that is asked for."""
    if arguments.zoom < 1 or arguments.thin < 3 or arguments.thin % 2 == 0:
        raise InputError(
            f"--zoom {arguments.zoom}, --thin {arguments.thin}: expected at least 1, and an odd number from 3"
        )
    torch.set_num_threads(arguments.threads)
    asked = [parse_view(text) for text in arguments.views]
    runs = {}
    for path in arguments.runs:
        run = load_run(path, device="cpu", conf=arguments.conf, data_root=arguments.data_root)
        runs[f"{len(runs)} {run.conf['train.expname']}"] = run
    check_alike(list(runs.values()))
    held_out = next(iter(runs.values())).held_out
    if not asked and held_out is None:
        raise InputError("the runs hold out no views; expected --views NUMBER ...")
    rows, tiles = [], []
    for wanted in asked or [Wanted(number) for number in image_numbers(held_out)]:
        row, painted = compare(runs, wanted, arguments.thin, arguments.show, arguments.rays)
        rows.append(row)
        tiles.append(painted)
    if arguments.out:
        write_image(sheet(tiles, arguments.zoom), Path(arguments.out))
        say(f"picture: {arguments.out}")
    where = {name: str(run.folder) for name, run in runs.items()}
    return {**machine(), "runs": where, "thin": arguments.thin, "views": rows, "means": means(rows)}


def means(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Returns by run the means of `MEAN_OF`, and the shares of thin parts and narrow gaps kept.

    A share is None where no mask has a pixel of the kind.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name in rows[0]["runs"]:
        scores = [row["runs"][name] for row in rows]
        found[name] = {key: float(np.mean([score[key] for score in scores])) for key in MEAN_OF}
        for kind in ("thin", "gaps"):
            pixels = sum(score[kind] for score in scores)
            kept = sum(score[f"{kind}_kept"] for score in scores)
            found[name][f"{kind}_kept"] = kept / pixels if pixels else None
    return found


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
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
    thin = f"by a square of {result['thin']} pixels"
    for key, title in (
        ("psnr", "PSNR, mean, dB"),
        ("iou", "IoU, mean"),
        ("missing", "pixels of the mask that are missed, mean"),
        ("too_much", "pixels beside the mask that are hit, mean"),
        ("thin_kept", f"thin parts kept, {thin}"),
        ("gaps_kept", f"narrow gaps kept, {thin}"),
    ):
        values = [result["means"][name][key] for name in names]
        say(f"{title}: " + ", ".join("none there" if value is None else f"{value:.4g}" for value in values))


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser("Compares runs of one scene view by view, in figures and in a picture.")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN",
                        help="folders of runs, or of all runs of a name for its latest")  # fmt: skip
    parser.add_argument("--views", nargs="+", default=[], metavar="NUMBER[:X,Y,W,H]",
                        help="numbers of images, with a crop if wanted; default: all held out")  # fmt: skip
    parser.add_argument("--conf", default=None, help="conf of runs that hold none of their own")
    parser.add_argument("--show", choices=SHOWN, default=SHOWN[0], help="what the picture shows")
    parser.add_argument("--rays", choices=RAYS, default=RAYS[0], help="whose tracer finds the surface")
    parser.add_argument("--out", default=None, help="the picture, a PNG file")
    parser.add_argument("--zoom", type=int, default=1, help="how many times pictures are enlarged")
    parser.add_argument(
        "--thin", type=int, default=5, help="side of the square that tells thin parts, pixels"
    )
    parser.add_argument("--data_root", default=None, help="folder of data sets; default: data/")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, report))
