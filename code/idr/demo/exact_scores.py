"""Scores against the built-in scene's exact surface and colors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.demo.render import exact_forward
from idr.demo.scene import read_exact_mesh
from idr.demo.teapot import Array, gradient, sdf
from idr.evaluation.chamfer import ChamferResult, chamfer, distance_to_zero_set
from idr.evaluation.metrics import mask_iou, masked_psnr
from idr.evaluation.results import RenderingScores, ViewScore
from idr.progress_bar import with_progress
from idr.rendering import render_image
from idr.runs.views import read_view

CHAMFER_SAMPLES = 30_000  # the mean's standard error is below 1 %


def chamfer_to_exact(
    world_vertices: Array, faces: NDArray[np.integer], unit_from_world: Array, scene_folder: Path
) -> ChamferResult:
    """Chamfer distances of a reconstruction to the exact surface.

    Args:
        world_vertices: (V, 3) of the reconstruction, in world coordinates.
        faces: (T, 3).
        unit_from_world: (4, 4) inverse of the scene's own scale_mat.
        scene_folder: Folder with the exact surface.

    Returns:
        Distances in unit-sphere units: accuracy to the exact zero set, completeness to the reconstruction.
    """
    vertices = np.asarray(world_vertices) @ unit_from_world[:3, :3].T + unit_from_world[:3, 3]
    ours = trimesh.Trimesh(vertices, faces, process=False)
    truth = trimesh.Trimesh(*read_exact_mesh(scene_folder), process=False)
    exact_distance = functools.partial(distance_to_zero_set, sdf=sdf, gradient=gradient, mesh=truth)
    return chamfer(ours, truth, CHAMFER_SAMPLES, exact_distance=exact_distance)


def ceiling_scores(datasets: Sequence[Any]) -> list[RenderingScores]:
    """Scores, by split, of the exact surface and colors, rendered with one ray per pixel as by a network.

    They are an upper bound for reconstructions, because the photographs average 4 x 4 samples per pixel.
    """
    return [
        RenderingScores(tuple(_exact_view(split, i) for i in with_progress(range(len(split)), "exact views")))
        for split in datasets
    ]


def _exact_view(dataset: Any, index: int) -> ViewScore:
    view = read_view(dataset, index)
    pose = dataset.get_gt_pose(scaled=True)[index]
    image = render_image(exact_forward, view.intrinsics, pose, dataset.img_res, view.mask.flatten())
    psnr = masked_psnr(image.rgb01, view.photo, view.mask)
    return ViewScore(view.number, psnr, mask_iou(image.hit, view.mask))
