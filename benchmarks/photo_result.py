r"""Accuracy of a result of idr photos, compared with the ground truth of make_photo_scene.py.

    cd code
    python preprocess/make_photo_scene.py --out /tmp/teapot
    python preprocess/photos.py /tmp/teapot/photos --out /tmp/teapot_run --max_minutes 10
    python ../benchmarks/photo_result.py /tmp/teapot_run --truth /tmp/teapot/truth --json /tmp/teapot.json

Aligns the result with the ground truth by the similarity between estimated and true cameras. Prints camera
errors, the Chamfer distance to the exact surface in unit-sphere radii, and the IoU of masks and mesh
silhouettes with the exact silhouettes. Needs ``pip install -e '.[mesh]'``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import numpy as np  # noqa: E402
import trimesh  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from shared import machine, run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.datasets.images import list_images, load_mask  # noqa: E402
from idr.demo.cameras import UNIT_TO_WORLD  # noqa: E402
from idr.demo.exact_scores import chamfer_to_exact  # noqa: E402
from idr.demo.scene import read_exact_mesh  # noqa: E402
from idr.errors import InputError, MissingInputError  # noqa: E402
from idr.evaluation.camera_error import camera_errors  # noqa: E402
from idr.geometry.alignment import Alignment, align_cameras  # noqa: E402
from idr.geometry.cameras import decompose_projection  # noqa: E402

Array = NDArray[np.float64]
SCENE, MESH = Path("data/photos/scan0"), "mesh.glb"
MIN_VIEWS = 4


@dataclass(frozen=True)
class Views:
    """Estimated and true cameras of the registered photographs.

    Attributes:
        intrinsics: (B, 3, 3) estimated K of the imported images.
        estimate: (B, 4, 4) estimated camera-to-world poses.
        truth: (B, 4, 4) true poses, rotated about the optical axis like the imported photographs.
        names: B names of the imported images.
    """

    intrinsics: Array
    estimate: Array
    truth: Array
    names: tuple[str, ...]


def read_views(scene: Path, truth: Path) -> Views:
    """Reads both sets of cameras, and pairs them by the names of the photographs.

    Args:
        scene: The imported scene.
        truth: The ground truth folder of ``make_photo_scene.py``.

    Returns:
        The views.

    Raises:
        MissingInputError: A file is missing.
        InputError: Too few photographs were registered, or one is not in the ground truth.
    """
    for path in (scene / "import.json", scene / "cameras.npz", truth / "cameras.npz"):
        if not path.is_file():
            raise MissingInputError(f"no {path}; expected the folders of photos.py and make_photo_scene.py")
    record = json.loads((scene / "import.json").read_text(encoding="utf-8"))["views"]
    if len(record) < MIN_VIEWS:
        raise InputError(f"{scene}: {len(record)} photographs registered; expected {MIN_VIEWS} or more")
    masks = [path.stem for path in list_images(truth / "mask")]
    unknown = [entry["source"] for entry in record if Path(entry["source"]).stem not in masks]
    if unknown:
        raise InputError(f"{truth} has no {unknown[0]}; expected the ground truth of these photographs")
    numbers = [masks.index(Path(entry["source"]).stem) for entry in record]
    with np.load(scene / "cameras.npz") as ours, np.load(truth / "cameras.npz") as theirs:
        pairs = [decompose_projection(ours[f"world_mat_{i}"][:3]) for i in range(len(record))]
        poses = np.stack([decompose_projection(theirs[f"world_mat_{n}"][:3])[1] for n in numbers])
    estimate = np.stack([pose for _, pose in pairs])
    intrinsics = np.stack([k[:3, :3] for k, _ in pairs])
    names = tuple(entry["image"] for entry in record)
    return Views(intrinsics, estimate, rotated_like(estimate, poses), names)


def rotated_like(estimate: Array, truth: Array) -> Array:
    """Rotates true cameras about their optical axes by multiples of 90 degrees, like the imported images.

    The optical axes determine the rotation between the two worlds; for each camera, the multiple that fits
    best is used.

    Args:
        estimate: (B, 4, 4) estimated poses.
        truth: (B, 4, 4) true poses, for the pixels as stored.

    Returns:
        (B, 4, 4) true poses for the pixels as imported.
    """
    axes = np.einsum("bi,bj->ij", truth[:, :3, 2], estimate[:, :3, 2])
    left, _, right = np.linalg.svd(axes)
    world = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    rotated = truth.copy()
    for k, pose in enumerate(truth):
        choices = [pose[:3, :3] @ _quarter(q) for q in range(4)]
        fits = [float(np.trace(choice.T @ world @ estimate[k, :3, :3])) for choice in choices]
        rotated[k, :3, :3] = choices[int(np.argmax(fits))]
    return rotated


def _quarter(count: int) -> Array:
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[count]
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=np.float64)


def silhouette(
    mesh: trimesh.Trimesh, intrinsics: Array, pose: Array, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Silhouette of a mesh, with one ray per pixel.

    Args:
        mesh: In world coordinates.
        intrinsics: (3, 3) K.
        pose: (4, 4) camera-to-world.
        size: H, W.

    Returns:
        (H, W), True where a ray hits the mesh.
    """
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3).astype(np.float64)
    rays = pixels @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    origins = np.broadcast_to(pose[:3, 3], rays.shape)
    return np.asarray(RayMeshIntersector(mesh).intersects_any(origins, rays)).reshape(size)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def aligned(mesh: trimesh.Trimesh, alignment: Alignment) -> trimesh.Trimesh:
    """The mesh in the world of the ground truth."""
    matrix = alignment.matrix
    return trimesh.Trimesh(mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3], mesh.faces, process=False)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores a result of idr photos."""
    scene, file = arguments.work / SCENE, arguments.mesh or arguments.work / MESH
    views = read_views(scene, arguments.truth)
    if not file.is_file():
        raise MissingInputError(f"no mesh {file}; run photos.py to its end, or pass one as --mesh")
    alignment = align_cameras(views.estimate, views.truth)
    errors = camera_errors(views.estimate, views.truth, alignment)
    distances = np.linalg.norm(views.truth[:, :3, 3] - UNIT_TO_WORLD[:3, 3], axis=1)
    # A GLB's node rotates the mesh upright; its vertices are in world coordinates.
    loaded: Any = trimesh.load(file, process=False)
    whole: Any = trimesh.util.concatenate(list(getattr(loaded, "geometry", {"mesh": loaded}).values()))
    ours = aligned(whole, alignment)
    distance = chamfer_to_exact(
        np.asarray(ours.vertices), np.asarray(ours.faces), np.linalg.inv(UNIT_TO_WORLD), arguments.truth
    )
    vertices, faces = read_exact_mesh(arguments.truth)
    exact = trimesh.Trimesh(vertices @ UNIT_TO_WORLD[:3, :3].T + UNIT_TO_WORLD[:3, 3], faces, process=False)
    made, meshed = [], []
    for k, name in enumerate(views.names):
        mask = load_mask(scene / "mask" / name)
        camera = (views.intrinsics[k], views.truth[k], (mask.shape[0], mask.shape[1]))
        true = silhouette(exact, *camera)
        made.append(iou(mask, true))
        meshed.append(iou(silhouette(ours, *camera), true))
    share = errors.translation / distances
    return {
        "views": len(views.names),
        "photographs": len(list_images(arguments.truth / "mask")),
        "rotation_mean": float(errors.rotation_degrees.mean()),
        "rotation_worst": float(errors.rotation_degrees.max()),
        "center_mean": float(share.mean()),
        "center_worst": float(share.max()),
        "chamfer": distance.chamfer,
        "accuracy": distance.accuracy,
        "completeness": distance.completeness,
        "mask_iou_mean": float(np.mean(made)),
        "mask_iou_worst": float(np.min(made)),
        "mesh_iou_mean": float(np.mean(meshed)),
        "mesh_iou_worst": float(np.min(meshed)),
        **machine(),
    }


def report(scores: dict[str, Any]) -> None:
    """Prints the scores."""
    rows = [
        ("photographs registered", f"{scores['views']} of {scores['photographs']}"),
        (
            "rotation, mean / worst (degrees)",
            f"{scores['rotation_mean']:.3f} / {scores['rotation_worst']:.3f}",
        ),
        (
            "center over distance, mean / worst (%)",
            f"{100 * scores['center_mean']:.3f} / {100 * scores['center_worst']:.3f}",
        ),
        ("masks, IoU, mean / worst", f"{scores['mask_iou_mean']:.4f} / {scores['mask_iou_worst']:.4f}"),
        (
            "mesh silhouettes, IoU, mean / worst",
            f"{scores['mesh_iou_mean']:.4f} / {scores['mesh_iou_worst']:.4f}",
        ),
        ("Chamfer (unit sphere)", f"{scores['chamfer']:.5f}"),
        ("  accuracy", f"{scores['accuracy']:.5f}"),
        ("  completeness", f"{scores['completeness']:.5f}"),
    ]
    say("| compared with the ground truth | |\n|---|---|")
    for name, value in rows:
        say(f"| {name} | {value} |")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser(
        __doc__.split("\n\n")[0],
        "  python ../benchmarks/photo_result.py /tmp/teapot_run --truth /tmp/teapot/truth",
    )
    parser.add_argument("work", type=Path, metavar="FOLDER", help="--out of photos.py")
    parser.add_argument("--truth", type=Path, required=True, help="truth/ of make_photo_scene.py")
    parser.add_argument("--mesh", type=Path, help="mesh in the estimated world; default: FOLDER/mesh.glb")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, report))
