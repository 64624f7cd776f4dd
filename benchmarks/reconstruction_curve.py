r"""Quality of a run at each of its checkpoints, and images of its mesh.

    python benchmarks/reconstruction_curve.py --conf confs/dtu_quick_fixed_cameras.conf --scan_id 65 \\
        --run exps/dtu_quick_fixed_cameras_65/<time> --points points.npz --out curve/

Prints a line for every checkpoint (or those of ``--checkpoints``): training time in minutes, PSNR and mask
IoU of the training views, distances of surface points to the mesh, share of the area in smaller components,
camera errors. Writes ``curve.json``, meshes and renderings, and the last mesh from three sides as PNG.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import imageio.v3 as iio  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402
from scipy.ndimage import binary_dilation  # noqa: E402

from idr.cli.shared.common import add_conf_arguments, make_parser, run, say  # noqa: E402
from idr.conf.build import scan_id_of  # noqa: E402
from idr.conf.files import load_conf  # noqa: E402
from idr.datasets.points import read_points  # noqa: E402
from idr.evaluation.point_to_mesh import point_to_mesh_distance  # noqa: E402
from idr.evaluation.reconstruction import (  # noqa: E402
    measure_cameras,
    write_renderings,
    write_surface,
)
from idr.geometry.cameras import project_points  # noqa: E402
from idr.runs import Run  # noqa: E402
from idr.runs.folders import CHECKPOINTS, CheckpointFolder  # noqa: E402

IMAGE_SIZE = 512
SPLATS = 3_000_000  # surface samples per image: several per pixel, so that no holes appear


def points_inside_masks(path: Path, run: Run) -> np.ndarray:
    """(N, 3) surface points in the world that project inside the mask, within a pixel, in every view."""
    points = read_points(path).points
    inside = np.ones(len(points), dtype=bool)
    height, width = run.scene.img_res
    for i in range(len(run.scene)):
        pose = np.linalg.inv(run.scene.get_gt_pose(scaled=False)[i].double().numpy())
        projection = run.scene.intrinsics[i, :3, :3].double().numpy() @ pose[:3]
        column, row = np.rint(project_points(points, projection)[0]).astype(int).T
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        mask = binary_dilation(run.scene.masks[i].numpy().reshape(height, width), np.ones((3, 3)))
        inside[seen] &= mask[row[seen], column[seen]]
    return points[inside]


def score(
    run: Run, folder: Path, points: np.ndarray | None, resolution: int, views: int | None
) -> dict[str, Any]:
    """Scores of one checkpoint."""
    row: dict[str, Any] = {"epoch": run.epoch}
    surface = write_surface(run, folder, resolution, False, 100_000)
    if surface is not None:
        row["smaller_components_area"] = surface.dropped_area
        row["mesh"] = str(surface.path)
        if points is not None:
            distance = point_to_mesh_distance(points, surface.mesh.vertices, surface.mesh.faces)
            row["points_median"] = float(np.median(distance))
            row["points_p90"] = float(np.percentile(distance, 90))
    if views != 0:
        scores = write_renderings(run, folder / "rendering", 10_000, max_views=views)
        row["psnr"], row["psnr_std"], row["mask_iou"] = scores.psnr_mean, scores.psnr_std, scores.iou_mean
    if run.trained_poses is not None:
        errors = measure_cameras(run)
        row["rotation_degrees"] = float(errors.rotation_degrees.mean())
        row["center"] = float(errors.translation.mean())
    return row


def minutes_by_epoch(run_folder: Path) -> dict[int, float]:
    """Training time in minutes by number of epochs, from the run's metrics."""
    with (run_folder / "metrics.csv").open(newline="") as stream:
        return {int(row["epoch"]) + 1: float(row["minutes"]) for row in csv.DictReader(stream)}


def draw_mesh(mesh: trimesh.Trimesh, azimuth: float, elevation: float) -> np.ndarray:
    """Draws a mesh by splatting surface samples into a depth buffer: (H, W) uint8."""
    samples, faces = trimesh.sample.sample_surface(mesh, SPLATS, seed=0)
    normals = mesh.face_normals[faces]
    a, e = np.radians(azimuth), np.radians(elevation)
    forward = -np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    axes = np.stack((right, np.cross(forward, right), forward))  # x right, y down, z away
    centered = (samples - mesh.bounds.mean(axis=0)) @ axes.T
    scale = 0.47 * IMAGE_SIZE / np.abs(centered[:, :2]).max()
    column, row = np.floor(centered[:, :2] * scale + IMAGE_SIZE / 2).astype(int).T
    shade = 0.15 + 0.85 * np.clip(-(normals @ (0.8 * forward + 0.4 * axes[1] + 0.3 * right)), 0, 1)
    order = np.argsort(-centered[:, 2])  # back to front
    image = np.ones((IMAGE_SIZE, IMAGE_SIZE))
    image[row[order], column[order]] = shade[order]
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def body(arguments: argparse.Namespace) -> None:
    """Scores the checkpoints, and prints and writes the results."""
    torch.set_flush_denormal(True)
    conf = load_conf(arguments.conf, arguments.overrides)
    run_folder, out = Path(arguments.run), Path(arguments.out)
    folder = CheckpointFolder(run_folder / CHECKPOINTS)
    names = arguments.checkpoints or [name for name in folder.names() if name != "0"]
    minutes = minutes_by_epoch(run_folder)
    rows, points = [], None
    for name in names:
        scan_id = scan_id_of(conf, arguments.scan_id)
        device = torch.device("cpu")
        run = Run(conf, run_folder, name, device, scan_id=scan_id, data_root=arguments.data_root)
        if arguments.points and points is None:
            points = points_inside_masks(Path(arguments.points), run)
            say(f"{len(points)} points lie inside every mask")
        row = {
            "minutes": minutes.get(run.epoch),
            **score(run, out, points, arguments.resolution, arguments.views),
        }
        rows.append(row)
        say(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
            )
        )
        (out / "curve.json").write_text(json.dumps(rows, indent=2) + "\n")
    if "mesh" in rows[-1]:
        mesh = trimesh.load_mesh(rows[-1]["mesh"], process=False)
        for number, side in enumerate(arguments.sides):
            path = out / f"mesh_{number}.png"
            iio.imwrite(path, draw_mesh(mesh, *side))
            say(f"wrote {path}")


def _side(text: str) -> tuple[float, float]:
    azimuth, _, elevation = text.partition(",")
    return float(azimuth), float(elevation)


def main() -> int:
    """Runs the benchmark."""
    parser = make_parser("Measures a run at each of its checkpoints.")
    add_conf_arguments(parser)
    parser.add_argument("--scan_id", type=int, default=-1, help="scene; -1 takes the conf's")
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--checkpoints", nargs="*", help="names of checkpoints; default: all but the first")
    parser.add_argument(
        "--points", default=None, help="npz with points_world (N, 3), points on the true surface"
    )
    parser.add_argument(
        "--resolution", type=int, default=128, help="grid samples along the mesh's shortest side"
    )
    parser.add_argument("--views", type=int, default=None, help="number of views to render; 0 for none")
    parser.add_argument("--out", required=True, help="folder for meshes, renderings, images and curve.json")
    parser.add_argument(
        "--sides", nargs=3, type=_side, default=[(0.0, 20.0), (120.0, 20.0), (240.0, 20.0)], metavar="AZ,EL",
        help="azimuth and elevation in degrees (z up) of the three images of the last mesh",
    )  # fmt: skip
    arguments = parser.parse_args()
    return run(lambda: body(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
