"""What ``eval.py`` measures of one run: its mesh in world coordinates, its cameras, its renderings.

B images, H, W image height and width.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from pyhocon import ConfigTree
from torch import Tensor

from idr.errors import InputError
from idr.evaluation.camera_error import Alignment, CameraErrors, align_cameras, camera_errors
from idr.evaluation.metrics import mask_iou, masked_psnr, masked_ssim
from idr.evaluation.perceptual import PictureDistance
from idr.evaluation.results import MeshResult, RenderingScores, ViewScore
from idr.meshing import (
    SampleGrid,
    component_areas,
    extract_mesh,
    largest_component,
    surface_frame,
    transform_mesh,
    uniform_grid,
    write_mesh,
)
from idr.rendering import render_image, write_image
from idr.runs.intrinsics import given_of
from idr.runs.opened import (
    LoadedModel,
    View,
    check_scene,
    holds_out_views,
    load_model,
    open_dataset,
    read_view,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconstruction:
    """A trained run beside the scene it was trained on.

    Attributes:
        loaded: The network with its weights and trained cameras.
        dataset: The training views.
        held_out: The views kept out of training, or None.
        alignment: Similarity from unit-sphere to world coordinates found from trained cameras; None where
            the run has none and the scene's scale_mat_0 does this.
    """

    loaded: LoadedModel
    dataset: Any
    held_out: Any | None
    alignment: Alignment | None

    @property
    def world_from_unit(self) -> NDArray[np.float64]:
        """(4, 4) map from unit-sphere to world coordinates."""
        if self.alignment is not None:
            return self.alignment.matrix
        return np.asarray(self.dataset.get_scale_mat(), dtype=np.float64)

    @property
    def training_poses(self) -> Tensor:
        """(B, 4, 4) training views, camera-to-world in unit-sphere coordinates, trained where they were."""
        if self.loaded.trained_poses is not None:
            return self.loaded.trained_poses
        return torch.as_tensor(self.dataset.get_gt_pose(scaled=True)).float()

    @property
    def held_out_poses(self) -> Tensor:
        """(M, 4, 4) given cameras of the held-out views, camera-to-world in the network's frame."""
        if self.held_out is None:
            raise InputError("the conf holds out no views (dataset.holdout)")
        if self.alignment is None:
            return torch.as_tensor(self.held_out.get_gt_pose(scaled=True)).float()
        return torch.from_numpy(poses_to_model_frame(_world_poses(self.held_out), self.alignment)).float()

    @property
    def training_intrinsics(self) -> Tensor:
        """(B, 4, 4) K of the training views, trained where they were."""
        given, corrections = given_of(self.dataset), self.loaded.corrections
        return given if corrections is None else corrections.of_training_views(given)

    @property
    def held_out_intrinsics(self) -> Tensor:
        """(M, 4, 4) K of the held-out views, with the mean correction of trained ones."""
        given, corrections = given_of(self.held_out), self.loaded.corrections
        return given if corrections is None else corrections.of_other_views(given)


def open_reconstruction(
    conf: ConfigTree,
    run_folder: Path,
    checkpoint: str,
    scan_id: int | None,
    data_root: str | None,
    device: torch.device,
) -> Reconstruction:
    """Opens a run and its scene.

    Args:
        conf: The conf whose ``model``, ``dataset`` and class paths are used.
        run_folder: The run.
        checkpoint: ``latest`` or an epoch.
        scan_id: Scene, or None for the dataset's default.
        data_root: Folder of the data sets, or None for the default.
        device: Where the network is put.

    Returns:
        The two, checked to belong together.

    Raises:
        MissingInputError: A file is not there.
        InputError: Checkpoint, conf and scene do not belong together.
    """
    return join_scene(load_model(conf, run_folder, checkpoint, device), conf, scan_id, data_root)


def join_scene(
    loaded: LoadedModel, conf: ConfigTree, scan_id: int | None, data_root: str | None
) -> Reconstruction:
    """Opens the scene of a network that is loaded already; see `open_reconstruction`."""
    dataset = open_dataset(conf, scan_id, data_root)
    held_out = open_dataset(conf, scan_id, data_root, split="holdout") if holds_out_views(conf) else None
    return join_views(loaded, dataset, held_out)


def join_views(loaded: LoadedModel, dataset: Any, held_out: Any | None) -> Reconstruction:
    """Puts a network beside its scene, both loaded already.

    Args:
        loaded: The network.
        dataset: The training views.
        held_out: The views kept out of training, or None.

    Raises:
        InputError: They do not belong together.
    """
    check_scene(loaded, dataset)
    alignment = None
    if loaded.trained_poses is not None:
        alignment = align_cameras(loaded.trained_poses.double().numpy(), _world_poses(dataset))
        if alignment.scale == 0:
            raise InputError("the given cameras all stand in one place: they give trained cameras no frame")
    return Reconstruction(loaded, dataset, held_out, alignment)


def _world_poses(dataset: Any) -> NDArray[np.float64]:
    """(B, 4, 4) given camera-to-world poses in world coordinates."""
    return np.asarray(dataset.get_gt_pose(scaled=False), dtype=np.float64)


def unit_surface(
    loaded: LoadedModel, resolution: int, is_uniform_grid: bool, chunk_points: int, dense: bool = False
) -> trimesh.Trimesh | None:
    """Meshes the zero set of a run's network, all components of it.

    Args:
        loaded: The network.
        resolution: Samples along the grid's shortest side.
        is_uniform_grid: Take the axis-aligned cube around the bounding sphere, not the surface's frame.
        chunk_points: Points handed to the network at once.
        dense: Evaluate all samples of the grid, not only those that the surface needs.

    Returns:
        The mesh in unit-sphere coordinates, or None where the network has no zero set yet.
    """
    grid: SampleGrid | None = uniform_grid(loaded.bounding_radius, resolution) if is_uniform_grid else None
    if grid is None:
        grid = surface_frame(
            loaded.sdf, loaded.bounding_radius, resolution, chunk_points, loaded.device, dense=dense
        )
    return None if grid is None else extract_mesh(loaded.sdf, grid, chunk_points, loaded.device, dense)


def write_surface(
    reconstruction: Reconstruction,
    folder: Path,
    resolution: int,
    is_uniform_grid: bool,
    chunk_points: int,
    dense: bool = False,
) -> MeshResult | None:
    """Meshes the zero set and writes it in world coordinates.

    Args:
        reconstruction: The run.
        folder: Where ``surface_world_coordinates_<epoch>.ply`` is written.
        resolution: Samples along the grid's shortest side.
        is_uniform_grid: Take the axis-aligned cube around the bounding sphere, not the surface's frame.
        chunk_points: Points handed to the network at once.
        dense: Evaluate all samples of the grid, not only those that the surface needs.

    Returns:
        The mesh, or None where the network has no zero set yet.

    Raises:
        OutputError: The file cannot be written.
    """
    loaded = reconstruction.loaded
    whole = unit_surface(loaded, resolution, is_uniform_grid, chunk_points, dense)
    if whole is None:
        return None
    world = transform_mesh(whole, reconstruction.world_from_unit)
    areas = component_areas(world)
    mesh = largest_component(world)
    path = folder / f"surface_world_coordinates_{loaded.epoch}.ply"
    write_mesh(mesh, path)
    return MeshResult(path, mesh, len(areas), float(1.0 - areas[0] / areas.sum()))


def measure_cameras(reconstruction: Reconstruction) -> CameraErrors:
    """Measures trained cameras against the given ones, in world units.

    Raises:
        InputError: The checkpoint holds no trained cameras.
    """
    poses, alignment = reconstruction.loaded.trained_poses, reconstruction.alignment
    if poses is None or alignment is None:
        raise InputError(
            "--eval_cameras: the checkpoint holds no trained cameras (CamParameters); "
            "leave the flag out, or train with --train_cameras"
        )
    return camera_errors(poses.double().numpy(), _world_poses(reconstruction.dataset), alignment)


def write_renderings(
    reconstruction: Reconstruction,
    folder: Path,
    chunk_pixels: int,
    held_out: bool = False,
    max_views: int | None = None,
    lpips: PictureDistance | None = None,
) -> RenderingScores:
    """Renders every view of a split, writes it and measures it.

    Training views are seen through the trained cameras wherever the checkpoint holds them. Held-out views
    then stand where the given cameras are, brought to the network's frame by the inverse of the alignment.

    Args:
        reconstruction: The run.
        folder: Where ``eval_<number>.png`` is written, ``heldout_<number>.png`` for held-out views.
        chunk_pixels: Pixels handed to the network at once.
        held_out: Take the held-out views in place of the training views.
        max_views: Take the first so many views only; None for all.
        lpips: From `load_lpips`; None leaves this score out.

    Returns:
        The scores.

    Raises:
        OutputError: A file cannot be written.
    """
    dataset = reconstruction.held_out if held_out else reconstruction.dataset
    if dataset is None:
        raise InputError("the conf holds out no views (dataset.holdout)")
    poses = reconstruction.held_out_poses if held_out else reconstruction.training_poses
    intrinsics = reconstruction.held_out_intrinsics if held_out else reconstruction.training_intrinsics
    device = reconstruction.loaded.device
    height, width = (int(size) for size in dataset.img_res)
    scores = []
    for index in range(len(dataset) if max_views is None else min(max_views, len(dataset))):
        view = read_view(dataset, index)
        image = render_image(
            reconstruction.loaded.model,
            intrinsics[index].to(device),
            poses[index].to(device),
            (height, width),
            view.mask.flatten(),
            chunk_pixels,
        )
        name = f"heldout_{view.number:03d}.png" if held_out else f"eval_{view.number:03d}.png"
        write_image(image.rgb01, folder / name)
        scores.append(_score(view, image.rgb01, image.hit, lpips))
        log.info("%s: view %d of %d, psnr %.2f", name, index + 1, len(dataset), scores[-1].psnr)
    return RenderingScores(tuple(scores))


def _score(view: View, rgb01: Tensor, hit: Tensor, lpips: PictureDistance | None) -> ViewScore:
    return ViewScore(
        view.number,
        masked_psnr(rgb01, view.photo, view.mask),
        mask_iou(hit, view.mask),
        masked_ssim(rgb01, view.photo, view.mask),
        math.nan if lpips is None else lpips(rgb01, view.photo, view.mask),
    )


def poses_to_model_frame(world_poses: NDArray[np.float64], alignment: Alignment) -> NDArray[np.float64]:
    """Brings given cameras to the frame of a network that was trained with its own.

    Args:
        world_poses: (B, 4, 4) camera-to-world in world coordinates.
        alignment: Similarity from the network's frame to world coordinates.

    Returns:
        (B, 4, 4) camera-to-world in the network's frame.
    """
    poses = np.array(world_poses, dtype=np.float64)
    poses[:, :3, :3] = alignment.rotation.T @ poses[:, :3, :3]
    poses[:, :3, 3] = (poses[:, :3, 3] - alignment.translation) @ alignment.rotation / alignment.scale
    return poses
