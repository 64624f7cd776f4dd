r"""Accuracy of cameras and masks estimated from photographs alone, compared with those of a scene.

    python benchmarks/photographs.py data/DTU/scan65 --out photographs/

SOURCE is any scene that ``import_scene.py`` reads, with cameras and with masks or an alpha channel. Three
scores (``--only``): ``cameras``, estimated by structure from motion from the photographs and aligned with the
source's by the best similarity; ``masks``, automatic masks with the source's cameras; ``alone``, automatic
masks with the estimated cameras. Objects with an alpha channel are first rendered on a textured ground
(``--table``).

Prints a table with rotation errors in degrees, center errors in percent of the distance, mask IoU and
seconds; rows that the importer refuses have its reason. Writes ``photographs.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
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
from idr.importers.masks.sources import find_masks  # noqa: E402
from idr.importers.photographs.files import PreparedView, prepare_view  # noqa: E402
from idr.importers.photographs.structure_from_motion import (  # noqa: E402
    ReconstructionSettings,
    reconstruct,
)
from idr.importers.recognize import read_source  # noqa: E402
from idr.importers.source import Source  # noqa: E402
from idr.preprocess.bounding_sphere import carve_scene  # noqa: E402
from idr.preprocess.scene_views import make_views  # noqa: E402

TEXELS = 1024
"""Texels along a side of the repeating noise texture."""
GROUND_SIDE = 6.0
"""Side length of the texture, over the radius of the object's outline."""
SCORES = ("cameras", "masks", "alone")
TABLES = ("prints", "pale", "noise")
"""Ground textures: a dark printed cloth; the same, faded; colored noise."""
FADED = 0.55
"""Exponent that makes the dark cloth pale."""
SAMPLES = 4
"""Samples along each side of a pixel."""
OCTAVES = ((1.2, 30.0), (4.0, 40.0), (16.0, 50.0))
"""Sigma in texels, and amplitude in gray levels, of the octaves of the noise."""


def texture(seed: int) -> NDArray[np.float32]:
    """(TEXELS, TEXELS, 3) tileable colored noise of several octaves."""
    generator = np.random.default_rng(seed)
    image = np.full((TEXELS, TEXELS, 3), 120.0, np.float32)
    for sigma, height in OCTAVES:
        noise = generator.standard_normal((TEXELS, TEXELS, 3)).astype(np.float32)
        tiled = np.pad(noise, ((64, 64), (64, 64), (0, 0)), mode="wrap")
        smooth = cv2.GaussianBlur(tiled, (0, 0), sigma)[64:-64, 64:-64]
        image += height * smooth / smooth.std()
    return image.clip(0, 255)


def textures(ground: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(T, T, 3) textures of a ground, one of `TABLES`, and of the background."""
    if ground == "noise":
        return texture(0), texture(1)
    prints = Room(np.random.default_rng(0)).table ** (FADED if ground == "pale" else 1.0)
    blurred = cv2.GaussianBlur(texture(1), (0, 0), 12)
    return (255 * prints).astype(np.float32), np.asarray(blurred, dtype=np.float32)


def render_surroundings(
    view: PreparedView, height: float, side: float, layers: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Renders an infinite textured ground below the object (z up), and a background at infinity.

    Args:
        view: The view whose camera is used.
        height: z of the ground.
        side: Period of the texture in world units.
        layers: Result of `textures`.

    Returns:
        (H, W, 3) RGB.
    """
    size = view.rgb.shape[:2]
    rows, columns = (np.mgrid[: SAMPLES * size[0], : SAMPLES * size[1]] + 0.5) / SAMPLES - 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).astype(float)
    rotation, shift = view.world_to_camera[:, :3], view.world_to_camera[:, 3]
    rays = pixels @ np.linalg.inv(view.intrinsics).T @ rotation
    center = -rotation.T @ shift
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (height - center[2]) / rays[..., 2]
    on_ground = np.isfinite(along) & (along > 0) & (along < 1e3 * side)
    places = np.where(on_ground[..., None], center + along[..., None] * rays, 0.0)[..., :2] / side
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    around = np.stack([np.arctan2(unit[..., 1], unit[..., 0]) / np.pi, unit[..., 2]], axis=-1)
    ground, background = (
        _sampled(place, layer) for place, layer in zip((places, around), layers, strict=True)
    )
    fine = np.where(on_ground[..., None], ground, background)
    return np.asarray(cv2.resize(fine, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)


def _sampled(places: NDArray[np.float64], layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """A repeating texture of side 1 at (H, W, 2) positions."""
    texels = ((places % 1.0) * len(layer)).astype(np.float32)
    sampled = cv2.remap(layer, texels[..., 0], texels[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(sampled, dtype=np.float32)


def read_views(source: Source, ground: str | None) -> list[PreparedView]:
    """Reads photographs and masks of a source; renders objects with an alpha channel on a ground."""
    found = find_masks(source, None)
    views = [prepare_view(v, f, a, 1) for v, f, a in zip(source.views, found.files, found.alpha, strict=True)]
    if not (all(found.alpha) and ground):
        return views
    names = tuple(view.name for view in source.views)
    masks = tuple(view.mask for view in views if view.mask is not None)
    hull = carve_scene(make_views(names, masks, np.stack([view.projection for view in views])))
    height, side = float(hull.points[:, 2].min()), GROUND_SIDE * hull.outline
    composed, layers = [], textures(ground)
    for view, original in zip(views, source.views, strict=True):
        alpha = load_alpha(original.image)
        assert alpha is not None
        share = alpha[..., None] / np.float32(255)
        rgb = share * view.rgb + (1 - share) * render_surroundings(view, height, side, layers)
        composed.append(replace(view, rgb=np.round(rgb).astype(np.uint8), undistorted=False, rescaled=1.0))
    return composed


def estimate_cameras(views: list[PreparedView], out: Path, threads: int) -> Source:
    """Estimates the cameras from the photographs alone, or reads an earlier estimate in the same folder."""
    photographs = out / "photographs"
    if not photographs.is_dir():
        photographs.mkdir(parents=True)
        for k, view in enumerate(views):
            cv2.imwrite(str(photographs / f"{k:04d}.png"), cv2.cvtColor(view.rgb, cv2.COLOR_RGB2BGR))
    settings = ReconstructionSettings(threads=threads, min_registered=3)
    return reconstruct(photographs, out / "reconstruction", settings, say)


def score_cameras(views: list[PreparedView], out: Path, threads: int) -> dict[str, Any]:
    """Errors of the estimated cameras."""
    began = time.monotonic()
    estimate = estimate_cameras(views, out, threads)
    seconds = time.monotonic() - began
    numbers = [int(Path(view.name).stem) for view in estimate.views]
    poses = np.stack([_pose(view.world_to_camera) for view in estimate.views])
    truth = np.stack([_pose(views[k].world_to_camera) for k in numbers])
    errors = camera_errors(poses, truth, align_cameras(poses, truth))
    center = _nearest_to_axes(np.stack([_pose(view.world_to_camera) for view in views]))
    share = errors.translation / np.linalg.norm(truth[:, :3, 3] - center, axis=1)
    return {
        "views": len(views),
        "registered": len(numbers),
        "rotation_mean": float(errors.rotation_degrees.mean()),
        "rotation_worst": float(errors.rotation_degrees.max()),
        "center_mean": float(share.mean()),
        "center_worst": float(share.max()),
        "seconds": seconds,
    }


def _pose(world_to_camera: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.inv(np.vstack([world_to_camera, [0.0, 0.0, 0.0, 1.0]]))


def _nearest_to_axes(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point nearest to all optical axes."""
    axes = poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    return np.linalg.solve(across.sum(axis=0), np.einsum("bij,bj->i", across, poses[:, :3, 3]))


def score_masks(views: list[PreparedView]) -> dict[str, Any]:
    """IoU of automatic masks, made with the cameras of the views, with the masks of the views."""
    import torch

    names = [f"{k:04d}.png" for k in range(len(views))]
    began = time.monotonic()
    made = make_masks(
        [view.rgb for view in views], names, np.stack([view.projection for view in views]), None
    )
    seconds = time.monotonic() - began
    ious = [
        mask_iou(torch.from_numpy(mask), torch.from_numpy(view.mask))
        for mask, view in zip(made.masks, views, strict=True)
        if view.mask is not None
    ]
    return {"iou_mean": float(np.mean(ious)), "iou_worst": float(np.min(ious)), "seconds": seconds}


def score_alone(views: list[PreparedView], out: Path, threads: int) -> dict[str, Any]:
    """IoU of automatic masks made with the estimated cameras; true masks are undistorted like the images."""
    estimate = estimate_cameras(views, out, threads)
    masks = out / "masks"
    masks.mkdir(exist_ok=True)
    registered = []
    for view in estimate.views:
        mask = views[int(Path(view.name).stem)].mask
        assert mask is not None  # `read_views` refuses sources without masks
        file = masks / f"{Path(view.name).stem}.png"
        cv2.imwrite(str(file), 255 * mask.astype(np.uint8))
        registered.append(prepare_view(view, file, False, 1))
    return score_masks(registered)


def table(results: dict[str, Any]) -> str:
    """Formats the results as a markdown table."""
    lines = ["| scene | score | result | seconds |", "|---|---|---|---|"]
    for name, row in results.items():
        refused = {score: values["refused"] for score, values in row.items() if "refused" in values}
        lines += [f"| {name} | {score} | refused: {reason} | |" for score, reason in refused.items()]
        cameras, masks, alone = ({} if score in refused else row.get(score) for score in SCORES)
        if cameras:
            lines.append(
                f"| {name} | cameras | {cameras['registered']} of {cameras['views']} registered; rotation "
                f"{cameras['rotation_mean']:.2f} (worst {cameras['rotation_worst']:.2f}) degrees; center "
                f"{100 * cameras['center_mean']:.2f} (worst {100 * cameras['center_worst']:.2f}) % of the "
                f"distance | {cameras['seconds']:.0f} |"
            )
        for score, values in (("masks, source's cameras", masks), ("masks, estimated cameras", alone)):
            if values:
                lines.append(
                    f"| {name} | {score} | IoU {values['iou_mean']:.3f} (worst view "
                    f"{values['iou_worst']:.3f}) | {values['seconds']:.0f} |"
                )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser(
        __doc__.split("\n\n")[0], "  python benchmarks/photographs.py data/DTU/scan65 --out photographs/"
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="scenes with cameras")
    parser.add_argument("--out", type=Path, required=True, help="new folder for photographs and results")
    parser.add_argument("--only", nargs="+", choices=SCORES, default=SCORES, help="what to score")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use one view in N")
    parser.add_argument(
        "--table", choices=TABLES, default="prints", help="ground below objects with an alpha channel"
    )
    parser.add_argument("--no_table", action="store_true", help="keep objects with an alpha channel on white")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of structure from motion; 1 is reproducible"
    )
    return parser


def measure(arguments: argparse.Namespace) -> None:
    """Scores all sources, prints the table and writes the JSON file."""
    if arguments.every < 1:
        raise InputError(f"--every {arguments.every}: expected 1 or more")
    if arguments.out.exists():
        raise InputError(f"--out {arguments.out} already exists; expected a new folder")
    sources = {path: read_source(path) for path in arguments.sources}
    results: dict[str, Any] = {}
    for path, source in sources.items():
        name = "/".join(path.resolve().parts[-2:])
        views = read_views(source, None if arguments.no_table else arguments.table)[:: arguments.every]
        work = arguments.out / name.replace("/", "_")
        scores = {
            "cameras": partial(score_cameras, views, work, arguments.threads),
            "masks": partial(score_masks, views),
            "alone": partial(score_alone, views, work, arguments.threads),
        }
        row: dict[str, Any] = {}
        for score in arguments.only:
            try:
                row[score] = scores[score]()
            except InputError as error:
                row[score] = {"refused": str(error)}
        results[name] = row
        content = {"photographs": results, **machine()}
        write_text_atomic(arguments.out / "photographs.json", json.dumps(content, indent=2) + "\n")
    say(table(results))


if __name__ == "__main__":
    parsed = build_parser().parse_args()
    raise SystemExit(run(lambda: measure(parsed)))
