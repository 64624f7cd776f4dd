r"""How good are cameras and masks that are found from photographs alone? Against those that a scene has.

    python benchmarks/photographs.py data/DTU/scan65 --out photographs/

Takes any SOURCE that ``import_scene.py`` reads and that has cameras, and masks or an alpha channel. Copies
its photographs without anything else, finds their cameras by structure from motion, and compares these with
the source's after the best similarity; makes masks by color and the other views, with the source's cameras
(``masks``) and with those found (``alone``), and compares them with the source's. An object on nothing (alpha
channel) is put on a textured table first, ``--table`` says which.
What an importer refuses stands in the table with its reason. Prints a table and writes ``photographs.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from shared import machine  # noqa: E402

from idr.cli.shared.common import make_parser, run, say  # noqa: E402
from idr.datasets.images import load_alpha  # noqa: E402
from idr.demo.photo_render import Room  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.evaluation.camera_error import camera_errors  # noqa: E402
from idr.evaluation.metrics import mask_iou  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402
from idr.geometry.alignment import align_cameras  # noqa: E402
from idr.importers.masks.automatic import make_masks  # noqa: E402
from idr.importers.masks.given import has_alpha_masks, mask_files  # noqa: E402
from idr.importers.photographs.files import Picture, load_picture  # noqa: E402
from idr.importers.photographs.structure_from_motion import Settings, reconstruct  # noqa: E402
from idr.importers.recognize import read_source  # noqa: E402
from idr.importers.source import Source  # noqa: E402
from idr.preprocess.bounding_sphere import carve_scene  # noqa: E402
from idr.preprocess.scene_views import make_views  # noqa: E402

TEXELS = 1024
"""Along each side of the noise's texture, which covers `TABLE_SIDE` of the object's outline and repeats."""
TABLE_SIDE = 6.0
WHAT = ("cameras", "masks", "alone")
TABLES = ("prints", "pale", "noise")
"""A dark cloth with prints; the same, faded; noise of all colors at full strength."""
FADED = 0.55
"""Exponent that makes the dark cloth a pale one."""
SAMPLES = 4
"""Along each side of a pixel: a camera averages what falls on it."""
OCTAVES = ((1.2, 30.0), (4.0, 40.0), (16.0, 50.0))
"""Deviations of the Gaussians that smooth the texture's noise, texels, and what each adds, gray levels."""


def texture(seed: int) -> NDArray[np.float32]:
    """Returns smooth colored noise of several sizes, (TEXELS, TEXELS, 3), that repeats without a seam."""
    generator = np.random.default_rng(seed)
    picture = np.full((TEXELS, TEXELS, 3), 120.0, np.float32)
    for sigma, height in OCTAVES:
        noise = generator.standard_normal((TEXELS, TEXELS, 3)).astype(np.float32)
        tiled = np.pad(noise, ((64, 64), (64, 64), (0, 0)), mode="wrap")
        smooth = cv2.GaussianBlur(tiled, (0, 0), sigma)[64:-64, 64:-64]
        picture += height * smooth / smooth.std()
    return picture.clip(0, 255)


def textures(table: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns those of a table, one of `TABLES`, and of the wall behind it, (T, T, 3) each."""
    if table == "noise":
        return texture(0), texture(1)
    prints = Room(np.random.default_rng(0)).table ** (FADED if table == "pale" else 1.0)
    return (255 * prints).astype(np.float32), cv2.GaussianBlur(texture(1), (0, 0), 12)


def table_behind(
    picture: Picture, height: float, side: float, layers: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Draws what a camera sees of an endless textured table below the object, z up, and of a wall far behind.

    Args:
        picture: The view; its camera is taken.
        height: z of the table.
        side: World units after which the texture repeats.
        layers: What `textures` returned.

    Returns:
        (H, W, 3) RGB.
    """
    size = picture.rgb.shape[:2]
    rows, columns = (np.mgrid[: SAMPLES * size[0], : SAMPLES * size[1]] + 0.5) / SAMPLES - 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(float)
    rotation, shift = picture.world_to_camera[:, :3], picture.world_to_camera[:, 3]
    rays = pixels @ np.linalg.inv(picture.intrinsics).T @ rotation
    center = -rotation.T @ shift
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (height - center[2]) / rays[..., 2]
    on_table = np.isfinite(along) & (along > 0) & (along < 1e3 * side)
    places = np.where(on_table[..., None], center + along[..., None] * rays, 0.0)[..., :2] / side
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    around = np.stack([np.arctan2(unit[..., 1], unit[..., 0]) / np.pi, unit[..., 2]], axis=-1)
    table, wall = (_sampled(place, layer) for place, layer in zip((places, around), layers, strict=True))
    fine = np.where(on_table[..., None], table, wall)
    return np.asarray(cv2.resize(fine, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)


def _sampled(places: NDArray[np.float64], layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """A repeating texture at (H, W, 2) places, 1 its side."""
    texels = ((places % 1.0) * len(layer)).astype(np.float32)
    return cv2.remap(layer, texels[..., 0], texels[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def read_pictures(source: Source, table: str | None) -> list[Picture]:
    """Reads photographs and masks of a source; an object with an alpha channel is put on the table named."""
    files = mask_files(source, None)
    use_alpha = files[0] is None and has_alpha_masks(source)
    if files[0] is None and not use_alpha:
        raise InputError("the source has neither masks nor an alpha channel to compare with")
    pictures = [load_picture(v, f, use_alpha, 1) for v, f in zip(source.views, files, strict=True)]
    if not (use_alpha and table):
        return pictures
    names = tuple(view.name for view in source.views)
    masks = tuple(p.mask for p in pictures if p.mask is not None)
    hull = carve_scene(make_views(names, masks, np.stack([p.projection for p in pictures])))
    shown, layers = [], textures(table)
    for picture, view in zip(pictures, source.views, strict=True):
        alpha = load_alpha(view.image)
        assert alpha is not None
        share = alpha[..., None] / np.float32(255)
        behind = table_behind(picture, float(hull.points[:, 2].min()), TABLE_SIDE * hull.outline, layers)
        rgb = np.round(share * picture.rgb + (1 - share) * behind).astype(np.uint8)
        shown.append(Picture(rgb, picture.mask, picture.intrinsics, picture.world_to_camera, False, 1.0))
    return shown


def find_cameras(pictures: list[Picture], out: Path, threads: int) -> Source:
    """Finds the cameras of the photographs alone; those found before in the same folder are taken."""
    photographs = out / "photographs"
    if not photographs.is_dir():
        photographs.mkdir(parents=True)
        for k, picture in enumerate(pictures):
            cv2.imwrite(str(photographs / f"{k:04d}.png"), cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR))
    return reconstruct(photographs, out / "reconstruction", Settings(threads=threads, min_registered=3), say)


def score_cameras(pictures: list[Picture], out: Path, threads: int) -> dict[str, Any]:
    """Finds the cameras of the photographs alone and compares them with the source's."""
    began = time.monotonic()
    found = find_cameras(pictures, out, threads)
    seconds = time.monotonic() - began
    numbers = [int(Path(view.name).stem) for view in found.views]
    poses = np.stack([_pose(view.world_to_camera) for view in found.views])
    truth = np.stack([_pose(pictures[k].world_to_camera) for k in numbers])
    errors = camera_errors(poses, truth, align_cameras(poses, truth))
    middle = _looked_at(np.stack([_pose(picture.world_to_camera) for picture in pictures]))
    share = errors.translation / np.linalg.norm(truth[:, :3, 3] - middle, axis=1)
    return {
        "views": len(pictures),
        "registered": len(numbers),
        "rotation_mean": float(errors.rotation_degrees.mean()),
        "rotation_worst": float(errors.rotation_degrees.max()),
        "center_mean": float(share.mean()),
        "center_worst": float(share.max()),
        "seconds": seconds,
    }


def _pose(world_to_camera: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.inv(np.vstack([world_to_camera, [0.0, 0.0, 0.0, 1.0]]))


def _looked_at(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point nearest to all optical axes."""
    axes = poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    return np.linalg.solve(across.sum(axis=0), np.einsum("bij,bj->i", across, poses[:, :3, 3]))


def score_masks(pictures: list[Picture]) -> dict[str, Any]:
    """Makes masks with the source's cameras and compares them with the source's masks."""
    import torch

    names = [f"{k:04d}.png" for k in range(len(pictures))]
    began = time.monotonic()
    made = make_masks([p.rgb for p in pictures], names, np.stack([p.projection for p in pictures]), None)
    seconds = time.monotonic() - began
    ious = [
        mask_iou(torch.from_numpy(mask), torch.from_numpy(picture.mask))
        for mask, picture in zip(made.masks, pictures, strict=True)
        if picture.mask is not None
    ]
    return {"iou_mean": float(np.mean(ious)), "iou_worst": float(np.min(ious)), "seconds": seconds}


def score_alone(pictures: list[Picture], out: Path, threads: int) -> dict[str, Any]:
    """Makes masks with the cameras found, and compares them with the source's, their lens removed alike."""
    found = find_cameras(pictures, out, threads)
    masks = out / "masks"
    masks.mkdir(exist_ok=True)
    registered = []
    for view in found.views:
        mask = pictures[int(Path(view.name).stem)].mask
        assert mask is not None  # `read_pictures` refuses sources without
        file = masks / f"{Path(view.name).stem}.png"
        cv2.imwrite(str(file), 255 * mask.astype(np.uint8))
        registered.append(load_picture(view, file, False, 1))
    return score_masks(registered)


def table(results: dict[str, Any]) -> str:
    """Words the results for people."""
    lines = ["| scene | what | result | seconds |", "|---|---|---|---|"]
    for name, row in results.items():
        refused = {what: got["refused"] for what, got in row.items() if "refused" in got}
        lines += [f"| {name} | {what} | refused: {reason} | |" for what, reason in refused.items()]
        cameras, given, alone = ({} if what in refused else row.get(what) for what in WHAT)
        if cameras:
            lines.append(
                f"| {name} | cameras | {cameras['registered']} of {cameras['views']} registered; rotation "
                f"{cameras['rotation_mean']:.2f} (worst {cameras['rotation_worst']:.2f}) degrees; center "
                f"{100 * cameras['center_mean']:.2f} (worst {100 * cameras['center_worst']:.2f}) % of the "
                f"distance | {cameras['seconds']:.0f} |"
            )
        for what, masks in (("masks, given cameras", given), ("masks, found cameras", alone)):
            if masks:
                lines.append(
                    f"| {name} | {what} | IoU {masks['iou_mean']:.3f} (worst view {masks['iou_worst']:.3f}) "
                    f"| {masks['seconds']:.0f} |"
                )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        __doc__.split("\n\n")[0], "  python benchmarks/photographs.py data/DTU/scan65 --out photographs/"
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="scenes with cameras")
    parser.add_argument("--out", type=Path, required=True, help="new folder for photographs and results")
    parser.add_argument("--only", nargs="+", choices=WHAT, default=WHAT, help="what to score")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one view in N")
    parser.add_argument(
        "--table", choices=TABLES, default="prints", help="what objects with alpha are put on"
    )
    parser.add_argument("--no_table", action="store_true", help="leave objects with alpha on white")
    parser.add_argument(
        "--threads", type=int, default=1, help="of structure from motion; 1: the same cameras each time"
    )
    return parser


def measure(arguments: argparse.Namespace) -> None:
    """Scores all sources and prints the table."""
    if arguments.every < 1:
        raise InputError(f"--every {arguments.every}: expected 1 or more")
    if arguments.out.exists():
        raise InputError(f"--out {arguments.out} is there already; name a new folder")
    sources = {path: read_source(path) for path in arguments.sources}
    results: dict[str, Any] = {}
    for path, source in sources.items():
        name = "/".join(path.resolve().parts[-2:])
        pictures = read_pictures(source, None if arguments.no_table else arguments.table)[:: arguments.every]
        work = arguments.out / name.replace("/", "_")
        scores = {
            "cameras": lambda pictures=pictures, work=work: score_cameras(pictures, work, arguments.threads),
            "masks": lambda pictures=pictures: score_masks(pictures),
            "alone": lambda pictures=pictures, work=work: score_alone(pictures, work, arguments.threads),
        }
        row: dict[str, Any] = {}
        for what in arguments.only:
            try:
                row[what] = scores[what]()
            except InputError as error:
                row[what] = {"refused": str(error)}
        results[name] = row
        content = {"photographs": results, **machine()}
        write_text_atomic(arguments.out / "photographs.json", json.dumps(content, indent=2) + "\n")
    say(table(results))


if __name__ == "__main__":
    parsed = build_parser().parse_args()
    raise SystemExit(run(lambda: measure(parsed)))
