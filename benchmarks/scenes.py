r"""Surfaces of a suite of scenes: confs side by side, without a key that knows its scene.

    python benchmarks/scenes.py --scenes vase relief_plain data:DTU:65 --suite data/suite \
        --confs ./confs/fast_dtu.conf=180 ./confs/fast_dtu.conf,loss.eikonal_weight=0.05=180 \
        --seeds 1 2 3 --jobs 2 --out results/scenes --json results/scenes.json

A scene is a name of `made_scenes.py`, written below ``--suite`` if it is missing, or
``DATA_ROOT:DATA_DIR:SCAN_ID``. Only `dataset.data_dir`, `img_res` and `holdout` (every eighth view) are set;
``--confs`` are those of `fast.py`. Every run is trained by ``exp_runner.py`` in a separate process.

Prints a row per scene and conf, means over the seeds, then a row of means over the scenes per conf. Scenes
with `exact_surface.ply` have accuracy, completeness and Chamfer distance in thousandths of the unit sphere's
radius, by exact point-to-triangle distances, and the mean angle between the normals of the true surface and
those of the nearest triangles. Both surfaces count only where a training camera sees them. Scenes with
`sift_points.npz` have the distances of its points inside the masks to the mesh, in world units; their means
over scenes are geometric, because units differ. An interrupted benchmark resumes: runs with the same
arguments are read from ``--out``. It does not notice other code: choose another folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import made_scenes  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402
from fast import Entry, cached_curve, parse_entry  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.datasets.camera_files import read_cameras  # noqa: E402
from idr.datasets.images import list_images, load_rgb  # noqa: E402
from idr.errors import USER_ERRORS, InputError  # noqa: E402
from idr.evaluation.chamfer import sample_surface  # noqa: E402
from idr.evaluation.point_to_mesh import (  # noqa: E402
    closest_on_triangles,
    closest_points,
    point_to_mesh_distance,
)
from idr.export.visibility import Sight, view_points  # noqa: E402
from idr.files import write_text_atomic  # noqa: E402
from idr.meshing import transform_mesh  # noqa: E402
from idr.meshing.frame import principal_axes  # noqa: E402

Array = NDArray[np.float64]

COLUMNS = {
    "accuracy": "accuracy",
    "completeness": "completeness",
    "chamfer": "Chamfer",
    "normals": "normals (degrees)",
    "points_median": "points, median",
    "points_p90": "points, 90 %",
    "iou_holdout": "IoU held-out",
    "iou_train": "IoU training",
    "psnr_holdout": "PSNR held-out (dB)",
    "psnr_train": "PSNR training (dB)",
    "smaller_components": "smaller components (%)",
    "processor_minutes": "CPU time (min)",
    "minutes": "wall time (min)",
}
"""Column titles, by the keys in the JSON file."""
WORLD_UNITS = ("points_median", "points_p90")
DECIMALS = {"iou_holdout": 4, "iou_train": 4, "psnr_holdout": 2, "psnr_train": 2, "smaller_components": 3}
"""Decimals of a column; others have four significant digits."""

SAMPLES = 30_000
"""Points on each surface; the standard error of a mean distance is below 1 %."""
SURFACE_SCORES = "surface.json"
_CANDIDATES = 24
"""Triangles with the nearest centroids, among which a point of a mesh looks for its own."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A scene to train.

    Attributes:
        label: Its name in the table.
        data_root: Folder of data sets.
        data_dir: Folder of the data set.
        scan_id: Number of the scene.
    """

    label: str
    data_root: str
    data_dir: str
    scan_id: int

    @property
    def folder(self) -> Path:
        """The scene's folder."""
        return Path(self.data_root) / self.data_dir / f"scan{self.scan_id}"

    @property
    def overrides(self) -> list[str]:
        """The keys that depend on the scene."""
        images = list_images(self.folder / "image")
        height, width = load_rgb(images[0]).shape[:2]
        held_out = list(range(0, len(images), made_scenes.HOLDOUT_STRIDE))
        return [
            f"dataset.data_dir={self.data_dir}",
            f"dataset.img_res=[{height}, {width}]",
            f"dataset.holdout={held_out}",
        ]


@dataclass(frozen=True)
class Job:
    """A run to train and score.

    Attributes:
        scene: Its scene.
        entry: Its conf.
        seed: Seed of all random numbers.
        arguments: Arguments for `fast.cached_curve`.
        out: Folder of the run.
    """

    scene: Scene
    entry: Entry
    seed: int
    arguments: argparse.Namespace
    out: Path


def parse_scene(text: str, suite: Path) -> Scene:
    """Parses a name of a made scene or ``DATA_ROOT:DATA_DIR:SCAN_ID``; raises `InputError` otherwise."""
    if text in made_scenes.NAMES:
        return Scene(text, str(suite.resolve()), text, 1)
    root, _, rest = text.partition(":")
    folder, _, scan = rest.partition(":")
    if not (root and folder and scan.isdigit()):
        raise InputError(
            f"--scenes {text}: expected DATA_ROOT:DATA_DIR:SCAN_ID or one of {', '.join(made_scenes.NAMES)}"
        )
    scene = Scene(f"{folder} {scan}", str(Path(root).resolve()), folder, int(scan))
    if not (scene.folder / "cameras.npz").is_file():
        raise InputError(f"--scenes {text}: no cameras.npz in {scene.folder}; expected a scene's folder")
    return scene


def make_jobs(scenes: list[Scene], entries: list[Entry], arguments: argparse.Namespace) -> list[Job]:
    """All runs, the confs of one scene and seed after another."""
    jobs = []
    for scene in scenes:
        points = scene.folder / "sift_points.npz"
        resolution = grid_resolution(scene, arguments)
        for seed in arguments.seeds:
            settings = argparse.Namespace(
                scan_id=scene.scan_id,
                batch_size=1,
                seed=seed,
                threads=arguments.threads,
                train_cameras=False,
                data_root=scene.data_root,
                overrides=[*arguments.overrides, *scene.overrides],
                last=True,
                resolution=resolution,
                views=arguments.views,
                points=str(points) if points.is_file() else None,
            )
            for entry in entries:
                out = Path(arguments.out).resolve() / _slug(scene.label) / entry_folder(entry) / f"seed{seed}"
                jobs.append(Job(scene, entry, seed, settings, out))
    return jobs


def grid_resolution(scene: Scene, arguments: argparse.Namespace) -> int:
    """Samples along the mesh's shortest side, ``--spacing`` apart if the exact surface tells its length."""
    file = scene.folder / made_scenes.SURFACE_FILE
    if not file.is_file():
        return int(arguments.resolution)
    with np.load(scene.folder / "cameras.npz") as archive:
        unit = float(np.cbrt(np.linalg.det(archive["scale_mat_0"][:3, :3])))
    vertices = np.asarray(trimesh.load_mesh(file, process=False).vertices) / unit
    offsets = vertices - vertices.mean(axis=0)
    shortest = float(np.ptp(offsets @ principal_axes(offsets), axis=0).min())
    return max(int(np.ceil(shortest / arguments.spacing)), 16)


def entry_folder(entry: Entry) -> str:
    """A folder name that tells confs, overrides and epochs apart."""
    text = f"{entry.conf},{','.join(entry.overrides)}={entry.epochs}"
    return f"{Path(entry.conf).stem}_{entry.epochs}_{hashlib.sha1(text.encode()).hexdigest()[:6]}"


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text)


def run_job(job: Job) -> Row:
    """Trains and scores a run, or reads its scores; a user error becomes the row's ``error``."""
    try:
        row = cached_curve(job.entry, job.arguments, job.out)["rows"][-1]
        if (job.scene.folder / made_scenes.SURFACE_FILE).is_file():
            row = {**row, **cached_surface_scores(job, row)}
    except USER_ERRORS as error:
        row = {"error": str(error)}
    return {
        "scene": job.scene.label,
        "conf": f"{job.entry.label}, {job.entry.epochs} epochs",
        "seed": job.seed,
        **row,
    }


def cached_surface_scores(job: Job, row: Row) -> Row:
    """Reads the scores against the exact surface, or computes them; NaN without a surface."""
    if "smaller_components" not in row:
        return dict.fromkeys(("accuracy", "completeness", "chamfer", "normals"), float("nan"))
    mesh_file, file = job.out / f"surface_world_coordinates_{row['epoch']}.ply", job.out / SURFACE_SCORES
    # An older file belongs to an earlier mesh.
    if file.is_file() and file.stat().st_mtime > mesh_file.stat().st_mtime:
        return dict(json.loads(file.read_text()))
    scores = surface_scores(trimesh.load_mesh(mesh_file, process=False), job.scene)
    write_text_atomic(file, json.dumps(scores, indent=2) + "\n")
    return scores


def surface_scores(world_mesh: trimesh.Trimesh, scene: Scene, samples: int = SAMPLES) -> Row:
    """Scores a mesh against the exact surface, both where a training camera sees them.

    Args:
        world_mesh: The reconstruction, in the world.
        scene: A scene with an exact surface.
        samples: Points on each surface, the unseen ones included.

    Returns:
        Accuracy, completeness and Chamfer distance in thousandths of the unit sphere's radius, and the mean
        angle between normals in degrees. NaN where no camera sees anything.
    """
    images = list_images(scene.folder / "image")
    cameras = read_cameras(scene.folder / "cameras.npz", len(images))
    with np.load(scene.folder / "cameras.npz") as archive:
        to_unit = np.linalg.inv(archive["scale_mat_0"])
    training = [i for i in range(len(images)) if i % made_scenes.HOLDOUT_STRIDE]
    intrinsics, poses = (values[training] for values in cameras.decompose())
    height, width = load_rgb(images[0]).shape[:2]
    views = view_points(intrinsics, poses, (height, width))
    truth = transform_mesh(trimesh.load_mesh(scene.folder / made_scenes.SURFACE_FILE, process=False), to_unit)
    ours = transform_mesh(world_mesh, to_unit)

    generator = np.random.default_rng(0)
    on_ours, _ = seen_samples(ours, views, samples, generator)
    on_truth, true_normals = seen_samples(truth, views, samples, generator)
    if not len(on_ours) or not len(on_truth):
        return dict.fromkeys(("accuracy", "completeness", "chamfer", "normals"), float("nan"))
    accuracy = 1000 * float(point_to_mesh_distance(on_ours, truth.vertices, truth.faces).mean())
    found = closest_points(on_truth, ours.vertices, ours.faces)
    completeness = 1000 * float(found.distance.mean())
    cosines = (true_normals * normals_at(found.points, ours)).sum(axis=1)
    return {
        "accuracy": accuracy,
        "completeness": completeness,
        "chamfer": 0.5 * (accuracy + completeness),
        "normals": float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean()),
    }


def seen_samples(
    mesh: trimesh.Trimesh, views: list[Any], samples: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Points drawn on a mesh that some view sees, (N, 3), and the (N, 3) normals of their triangles."""
    points = sample_surface(mesh, samples, generator)
    normals = normals_at(points, mesh)
    sight = Sight(mesh, views)
    seen = np.zeros(len(points), dtype=bool)
    for view in range(len(views)):
        unseen = np.flatnonzero(~seen)
        seen[unseen] = sight.cosines(points[unseen], normals[unseen], view) > 0
    return points[seen], normals[seen]


def normals_at(points: Array, mesh: trimesh.Trimesh) -> Array:
    """(N, 3) unit normals of the triangles that points of a mesh lie on.

    Args:
        points: (N, 3) on the mesh.
        mesh: A mesh whose triangles have similar sizes.
    """
    triangles = np.asarray(mesh.triangles)
    count = min(_CANDIDATES, len(triangles))
    _, candidates = cKDTree(triangles.mean(axis=1)).query(points, k=count)
    candidates = candidates.reshape(len(points), count)
    repeated = np.repeat(points, count, axis=0)
    nearest = closest_on_triangles(repeated, triangles[candidates.ravel()])
    distance = np.linalg.norm(nearest - repeated, axis=1).reshape(candidates.shape)
    # A sliver's normal is mostly rounding: of the triangles at the point, the largest counts.
    area = np.asarray(mesh.area_faces)[candidates]
    touching = distance <= distance.min(axis=1, keepdims=True) + 1e-7
    chosen = np.where(touching, area, -1.0).argmax(axis=1)
    corners = triangles[candidates[np.arange(len(points)), chosen]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-300)


def start_worker(threads: int) -> None:
    """Sets the threads of a process that trains and scores runs."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores all runs, each in a process that measures its CPU time."""
    suite = Path(arguments.suite)
    made = [name for name in arguments.scenes if name in made_scenes.NAMES]
    scenes = [parse_scene(text, suite) for text in arguments.scenes]
    entries = [parse_entry(text) for text in arguments.confs]
    missing = [name for name in made if not (suite / name / "scan1").exists()]
    made_scenes.write(missing, suite, made_scenes.Settings())
    jobs = make_jobs(scenes, entries, arguments)
    rows: dict[int, Row] = {}
    with ProcessPoolExecutor(
        arguments.jobs, multiprocessing.get_context("spawn"), start_worker, (arguments.threads,)
    ) as pool:
        numbers = {pool.submit(run_job, job): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            row = rows[numbers[future]] = future.result()
            say(f"{len(rows)} of {len(jobs)}: {row['scene']}, {row['conf']}, seed {row['seed']}")
    runs = [rows[number] for number in sorted(rows)]
    return {**machine(), "overrides": arguments.overrides, "runs": runs, "means": table(runs)}


def table(runs: list[Row]) -> list[Row]:
    """Means over seeds by scene and conf, then means over scenes by conf; failed runs are left out."""
    good = [run for run in runs if "error" not in run]
    means = []
    for scene in dict.fromkeys(run["scene"] for run in good):
        for conf in dict.fromkeys(run["conf"] for run in good):
            same = [run for run in good if run["scene"] == scene and run["conf"] == conf]
            if same:
                means.append({"scene": scene, "conf": conf, "seeds": len(same), **_mean(same, ())})
    for conf in dict.fromkeys(row["conf"] for row in means):
        same = [row for row in means if row["conf"] == conf]
        seeds = sum(row["seeds"] for row in same)
        means.append({"scene": "mean", "conf": conf, "seeds": seeds, **_mean(same, WORLD_UNITS)})
    return means


def _mean(rows: list[Row], geometric: tuple[str, ...]) -> Row:
    result = {}
    for key in COLUMNS:
        values = np.array([row[key] for row in rows if key in row], dtype=float)
        if len(values):
            result[key] = float(np.exp(np.log(values).mean()) if key in geometric else values.mean())
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the table, and what failed."""
    means = result["means"]
    columns = [key for key in COLUMNS if any(key in row for row in means)]
    say("\n| scene | conf | runs | " + " | ".join(COLUMNS[key] for key in columns) + " |")
    say("|---|---|" + " ---: |" * (len(columns) + 1))
    for row in means:
        cells = [_cell(key, row) for key in columns]
        say(f"| {row['scene']} | {row['conf']} | {row['seeds']} | " + " | ".join(cells) + " |")
    for run in result["runs"]:
        if "error" in run:
            say(f"failed: {run['scene']}, {run['conf']}, seed {run['seed']}: {run['error']}")


def _cell(key: str, row: Row) -> str:
    if key not in row:
        return ""
    value = 100 * row[key] if key == "smaller_components" else row[key]
    return f"{value:.{DECIMALS[key]}f}" if key in DECIMALS else f"{value:.4g}"


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser("Trains a suite of scenes by several confs, and compares their surfaces.")
    parser.add_argument("--scenes", nargs="+", default=list(made_scenes.NAMES), metavar="SCENE",
                        help="made scenes, or DATA_ROOT:DATA_DIR:SCAN_ID; default: all made")  # fmt: skip
    parser.add_argument("--confs", nargs="+", required=True, metavar="CONF[,KEY=VALUE...]=EPOCHS",
                        help="confs to train, each with its overrides")  # fmt: skip
    parser.add_argument("--suite", default="data/suite", help="folder of the made scenes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of all random numbers")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="override for all confs")  # fmt: skip
    parser.add_argument("--spacing", type=float, default=0.004,
                        help="distance of grid samples over the radius, with an exact surface")  # fmt: skip
    parser.add_argument("--resolution", type=int, default=256,
                        help="grid samples along the shortest side, without one")  # fmt: skip
    parser.add_argument("--views", type=int, default=None, help="render the first so many training views")
    parser.add_argument("--out", required=True, help="folder for runs, meshes and renderings")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, report))
