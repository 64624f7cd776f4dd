"""Measurements of one run by ``eval.py``: its mesh in world coordinates, cameras, renderings, points."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import trimesh

from idr.datasets.points import ScenePoints
from idr.datasets.record import TrueSize, read_true_size
from idr.errors import InputError
from idr.evaluation.camera_error import CameraErrors, camera_errors
from idr.evaluation.metrics import mask_iou, masked_psnr, masked_ssim
from idr.evaluation.perceptual import ImageDistance
from idr.evaluation.point_to_mesh import point_to_mesh_distance
from idr.evaluation.results import MeshResult, PointScores, RenderingScores, ViewScore
from idr.meshing import component_areas, largest_component, transform_mesh, write_mesh
from idr.progress_bar import with_progress
from idr.rendering import render_image, write_image
from idr.runs import Run
from idr.runs.exposure import fit_exposure
from idr.runs.views import given_world_poses, read_view

log = logging.getLogger(__name__)


def write_surface(
    run: Run, folder: Path, resolution: int, is_uniform_grid: bool, chunk_points: int, dense: bool = False
) -> MeshResult | None:
    """Meshes the zero set, see `Run.surface`, and writes its largest component in world coordinates.

    Returns:
        The mesh ``<folder>/surface_world_coordinates_<epoch>.ply``, or None if there is no zero set yet.

    Raises:
        OutputError: The file cannot be written.
    """
    whole = run.surface(resolution, chunk_points, is_uniform_grid, dense)
    if whole is None:
        return None
    world = transform_mesh(whole, run.world_from_unit)
    areas, mesh = component_areas(world), largest_component(world)
    path = folder / f"surface_world_coordinates_{run.epoch}.ply"
    write_mesh(mesh, path)
    return MeshResult(path, mesh, len(areas), float(1.0 - areas[0] / areas.sum()))


def point_scores(mesh: trimesh.Trimesh, points: ScenePoints) -> PointScores:
    """Measures the exact distances from points to a mesh in the same frame.

    A few triangulated points are wrong and would dominate a mean: hence percentiles.
    """
    distance = point_to_mesh_distance(points.points, mesh.vertices, mesh.faces)
    held_out = distance[points.held_out]
    return PointScores(
        len(distance), float(np.median(distance)), float(np.percentile(distance, 90)),
        len(held_out), float(np.median(held_out)), float(np.percentile(held_out, 90)),
    )  # fmt: skip


def measure_cameras(run: Run) -> CameraErrors:
    """Returns the errors of the trained cameras against the given ones, world units.

    Raises:
        InputError: The checkpoint holds no trained cameras.
    """
    if run.trained_poses is None or run.alignment is None:
        raise InputError(
            "--eval_cameras: the checkpoint holds no trained cameras (CamParameters); "
            "leave the flag out, or train with --train_cameras"
        )
    return camera_errors(run.trained_poses.double().numpy(), given_world_poses(run.scene), run.alignment)


def write_renderings(
    run: Run,
    folder: Path,
    chunk_pixels: int,
    held_out: bool = False,
    max_views: int | None = None,
    lpips: ImageDistance | None = None,
) -> RenderingScores:
    """Renders, writes and scores the views of a split.

    Training views use the trained cameras if the checkpoint has them. Held-out views then use the given
    cameras, mapped into the network's frame by the inverse of the alignment.

    The files show the scene's own colors. If the run learned exposures, the scores compare photographs with
    renderings in their exposure: training views in the learned one, held-out views in one fitted to the
    photograph, see `fit_exposure`. Such held-out scores say nothing about brightness and color balance.

    Args:
        run: The run.
        folder: Folder of ``eval_<number>.png``, or ``heldout_<number>.png`` for held-out views.
        chunk_pixels: Pixels rendered at once.
        held_out: Render the held-out views instead of the training views.
        max_views: Number of views, from the first; None for all.
        lpips: From `load_lpips`; None leaves this score out.

    Raises:
        InputError: The conf holds out no views.
        OutputError: A file cannot be written.
    """
    dataset = run.held_out if held_out else run.scene
    if dataset is None:
        raise InputError("the conf holds out no views (dataset.holdout)")
    poses = run.held_out_poses if held_out else run.training_poses
    intrinsics = run.held_out_intrinsics if held_out else run.training_intrinsics
    height, width = (int(size) for size in dataset.img_res)
    scores = []
    for index in with_progress(range(len(dataset))[:max_views], "views"):
        view = read_view(dataset, index)
        camera = intrinsics[index].to(run.device), poses[index].to(run.device), (height, width)
        image = render_image(run.model, *camera, view.mask.flatten(), chunk_pixels)
        name = f"{'heldout' if held_out else 'eval'}_{view.number:03d}.png"
        shown = image.rgb01
        write_image(shown, folder / name)
        if run.exposures is not None:
            own = fit_exposure(image, view.photo, view.mask) if held_out else run.exposures[index]
            shown = own.apply(shown, image.hit)
        compared = (shown, view.photo, view.mask)
        psnr, iou, ssim = masked_psnr(*compared), mask_iou(image.hit, view.mask), masked_ssim(*compared)
        perceptual = math.nan if lpips is None else lpips(*compared)
        scores.append(ViewScore(view.number, psnr, iou, ssim, perceptual))
        log.info("%s: psnr %.2f dB", name, psnr)
    how = None if run.exposures is None else "fitted" if held_out else "learned"
    return RenderingScores(tuple(scores), how)


def true_size_of(run: Run) -> TrueSize | None:
    """Returns how the unit of a run's scene was made a meter; None for another unit.

    Raises:
        InputError: The record of the scene is damaged.
    """
    folder = getattr(run.scene, "instance_dir", None)  # a class of the user's may have none
    return None if folder is None else read_true_size(Path(folder))
