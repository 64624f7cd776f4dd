"""A trained run: its network, its cameras, and the scene it was trained on.

N points, B training views, M held-out views, H, W image height and width. Points and poses are in unit-sphere
coordinates, the network's frame; `Run.world_from_unit` maps them to world coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import trimesh
from numpy.typing import ArrayLike, NDArray
from pyhocon import ConfigTree
from torch import Tensor

from idr.checkpoints.folder import LATEST, CheckpointFolder
from idr.conf.build import build_model, scan_id_of
from idr.conf.grids import with_grids_of_run
from idr.errors import InputError
from idr.geometry.alignment import Alignment, align_cameras
from idr.geometry.frames import check_frame, frame_of
from idr.meshing import SampleGrid, extract_mesh, largest_component, surface_frame, uniform_grid
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS, Field
from idr.model.encodings.levels import load_open_levels
from idr.model.weights import load_weights
from idr.rendering import DEFAULT_CHUNK_PIXELS, RenderedImage, render_image
from idr.runs import checkpoint as parts
from idr.runs.exposure import read_exposures
from idr.runs.folders import CHECKPOINTS, RUNCONF, conf_of_run, locate_run
from idr.runs.shading import ShadedPoints, SurfaceShader
from idr.runs.views import Camera, given_intrinsics, given_world_poses, open_dataset

Points = TypeVar("Points", Tensor, ArrayLike)


class Run:
    """A trained run at one of its checkpoints; `load_run` finds and opens one.

    The network is loaded at once. The scene is read when something needs it, see `read_scene`. Methods on
    points accept tensors or numpy arrays of shape (..., 3) and return the same kind, without gradients; use
    ``model`` for gradients.

    Attributes:
        conf: The conf that the run was trained with.
        scan_id: Scan number of the scene; None for the conf's.
        checkpoint: Name of the checkpoint.
        epoch: Epoch of the checkpoint.
        model: The network in evaluation mode, its parameters frozen.
        name: The checkpoint and its run, for messages.
        bounding_radius: Radius of the object's bounding sphere.
        trained_poses: (B, 4, 4) trained camera-to-world poses on the CPU; None if cameras were not trained.
        corrections: Trained corrections of the intrinsics; None if they were not trained.
        exposures: Learned exposures of the B training views; None if they were fixed.
    """

    def __init__(
        self,
        conf: ConfigTree,
        folder: Path,
        checkpoint: str = LATEST,
        device: torch.device | None = None,
        *,
        scan_id: int | None = None,
        data_root: str | None = None,
        scene: Any | None = None,
    ) -> None:
        """Builds the network of the conf and loads a checkpoint into it.

        Args:
            conf: The whole conf; its ``model`` and ``dataset`` blocks and class paths are used.
            folder: The run's folder, which holds ``checkpoints/``.
            checkpoint: ``latest``, or an epoch such as ``2000``.
            device: Device of the network; None for torch's default.
            scan_id: Scan number of the scene; None for the conf's.
            data_root: Folder of all data sets; None for the conf's.
            scene: The training views, if they are open already.

        Raises:
            MissingInputError: There is no such checkpoint.
            InputError: The checkpoint is damaged or does not fit the conf.
        """
        self.conf = with_grids_of_run(conf, folder / RUNCONF)
        self.folder = folder
        self.device = torch.get_default_device() if device is None else device
        self.bounding_radius = float(conf.get("model.ray_tracer.object_bounding_sphere", 1.0))
        self.scan_id = scan_id
        self._data_root = data_root
        self._open_scene = scene

        checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        checkpoint = checkpoints.resolve(checkpoint)
        self.checkpoint = checkpoint
        self.name = f"checkpoint {checkpoint} of {folder}"
        model = build_model(self.conf)

        def part(name: str) -> Mapping[str, Any]:
            return checkpoints.load(name, checkpoint) if checkpoints.has(name, checkpoint) else {}

        saved = checkpoints.load("ModelParameters", checkpoint)
        weights, own_conf = saved.get("model_state_dict"), folder / RUNCONF
        remedy = f"use --conf {own_conf}" if own_conf.is_file() else "use the conf of the training"
        load_weights(model, weights, self.name, remedy)
        load_open_levels(model, part("RecipeState"), where=self.name)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.epoch = int(saved["epoch"])

        self.trained_poses: Tensor | None = None
        self.corrections: parts.IntrinsicsCorrections | None = None
        if checkpoints.has("CamParameters", checkpoint):
            self.trained_poses = parts.read_poses(part("CamParameters"), self.name)
            num_images = len(self.trained_poses)
            self.corrections = parts.read_corrections(part("CameraState"), num_images, self.name)
        self.exposures = read_exposures(part("ExposureState"), self.name)
        self._scale_mat = parts.read_scale_mat(part("TrainerState"), self.name)

    # ---- the network

    @property
    def field(self) -> Field:
        """The network's signed distance: (N, 3) points on its device -> (N,) values, negative inside."""
        network = self.model.implicit_network
        if hasattr(network, "sdf"):  # skips the features; a user's own network may not have it
            return network.sdf  # type: ignore[no-any-return]
        return lambda points: network(points)[:, 0]

    def sdf(self, x: Points) -> Points:
        """Returns the signed distance, negative inside: (..., 3) points -> (...,) values."""
        return self._at_points(self.field, x)

    def normal(self, x: Points) -> Points:
        """Returns the unit gradient of the signed distance, on the surface its outward normal.

        (..., 3) points -> (..., 3) unit vectors, or 0 where the gradient vanishes.
        """
        return self._at_points(SurfaceShader(self.model, self.device).normals, x)

    def color(self, x: Points, view: Points) -> Points:
        """Returns the color, (..., 3) RGB in [0, 1], of surface points, (..., 3), seen from given directions.

        The network was trained on the surface only. `view` holds (..., 3) directions from the points to the
        camera, of any length. A single direction applies to all points.
        """
        return self._at_points(
            lambda points, towards: ShadedPoints(self.model, points).rgb01(towards), x, view
        )

    def render(self, camera: Camera | int, chunk_pixels: int = DEFAULT_CHUNK_PIXELS) -> RenderedImage:
        """Renders a camera, or the training view at a position, which reads the scene.

        ``rgb01`` of the image are colors in [0, 1]. `chunk_pixels` are rendered at once, which bounds memory.

        Raises:
            InputError: There is no such view.
        """
        if not isinstance(camera, Camera):
            camera = self.training_camera(camera)
        intrinsics, pose = camera.tensors(self.device)
        return render_image(self.model, intrinsics, pose, camera.img_res, chunk_pixels=chunk_pixels)

    def mesh(
        self, resolution: int = 256, chunk_points: int = DEFAULT_CHUNK_POINTS, dense: bool = False
    ) -> trimesh.Trimesh | None:
        """Returns the largest component of the surface, see `surface`; None if there is no surface yet."""
        whole = self.surface(resolution, chunk_points, dense=dense)
        return None if whole is None else largest_component(whole)

    def surface(
        self,
        resolution: int,
        chunk_points: int = DEFAULT_CHUNK_POINTS,
        is_uniform_grid: bool = False,
        dense: bool = False,
    ) -> trimesh.Trimesh | None:
        """Meshes the zero set of the network.

        Args:
            resolution: Grid samples along the shortest side.
            chunk_points: Points evaluated at once; bounds memory.
            is_uniform_grid: Sample the axis-aligned cube around the bounding sphere instead of a box along
                the surface's axes.
            dense: Evaluate every sample of the grid, not only those near the surface.

        Returns:
            All components in unit-sphere coordinates, faces outward; None if there is no surface yet.
        """
        radius = self.bounding_radius
        grid: SampleGrid | None = uniform_grid(radius, resolution) if is_uniform_grid else None
        if grid is None:
            grid = surface_frame(self.field, radius, resolution, chunk_points, self.device, dense=dense)
        return None if grid is None else extract_mesh(self.field, grid, chunk_points, self.device, dense)

    def _at_points(self, function: Callable[..., Tensor], *inputs: Points) -> Points:
        """Evaluates in chunks without gradients; returns the kind and device of the first input."""
        first = inputs[0]
        on_device = (torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in inputs)
        tensors = torch.broadcast_tensors(*on_device)
        shape = tensors[0].shape
        if not shape or shape[-1] != 3:
            raise InputError(f"points of shape {tuple(shape)}: expected (..., 3)")
        flat = [value.reshape(-1, 3).split(DEFAULT_CHUNK_POINTS) for value in tensors]
        with torch.no_grad():
            result = torch.cat([function(*chunk) for chunk in zip(*flat, strict=True)]).detach()
        result = result.reshape(shape[:-1] + result.shape[1:])
        return result.to(first.device) if isinstance(first, Tensor) else result.cpu().numpy()

    # ---- the scene

    @cached_property
    def scene(self) -> Any:
        """The training views: the data set that the conf names.

        Raises:
            InputError: The scene has another number of images or another unit sphere than in training.
        """
        scene = self._open_scene
        if scene is None:
            scene = open_dataset(self.conf, self.scan_id, self._data_root)
        if self.trained_poses is None:  # trained cameras bring their own frame
            check_frame(self._scale_mat, frame_of(scene), self.name)
        trained = {"{} trained cameras": self.trained_poses, "exposures of {} images": self.exposures}
        for what, values in trained.items():
            if values is not None and len(values) != len(scene):
                raise InputError(
                    f"the checkpoint holds {what.format(len(values))} but the scene has {len(scene)} "
                    "training images; use the scene and dataset.holdout of the training"
                )
        return scene

    @cached_property
    def held_out(self) -> Any | None:
        """The views kept out of training, a data set; None if the conf holds out none."""
        if not self.conf.get("dataset.holdout", None):
            return None
        return open_dataset(self.conf, self.scan_id, self._data_root, split="holdout")

    @cached_property
    def alignment(self) -> Alignment | None:
        """Similarity from unit-sphere to world coordinates, from trained to given cameras; None without them.

        Raises:
            InputError: The given cameras coincide.
        """
        if self.trained_poses is None:
            return None
        alignment = align_cameras(self.trained_poses.double().numpy(), given_world_poses(self.scene))
        if alignment.scale == 0:
            raise InputError("the given cameras coincide: trained cameras cannot be aligned with them")
        return alignment

    def at(self, checkpoint: str) -> Run:
        """Returns the same run, with the scene that is open, at another of its checkpoints; see `Run`."""
        same: dict[str, Any] = {"scan_id": self.scan_id, "data_root": self._data_root, "scene": self.scene}
        return Run(self.conf, self.folder, checkpoint, self.device, **same)

    def read_scene(self) -> None:
        """Reads training views, held-out views and alignment now, which reports their errors now."""
        _ = self.scene, self.held_out, self.alignment

    @property
    def world_from_unit(self) -> NDArray[np.float64]:
        """(4, 4) map from unit-sphere to world coordinates."""
        if self.alignment is not None:
            return self.alignment.matrix
        return np.asarray(self.scene.get_scale_mat(), dtype=np.float64)

    @property
    def img_res(self) -> tuple[int, int]:
        """Height and width of the scene's images."""
        return int(self.scene.img_res[0]), int(self.scene.img_res[1])

    @property
    def training_poses(self) -> Tensor:
        """(B, 4, 4) camera-to-world poses of the training views, trained if the run trained them."""
        return self.given_poses.float() if self.trained_poses is None else self.trained_poses

    @property
    def given_poses(self) -> Tensor:
        """(B, 4, 4) given camera-to-world poses of the training views, in the network's frame."""
        return self._in_unit_sphere(self.scene)

    @property
    def held_out_poses(self) -> Tensor:
        """(M, 4, 4) given camera-to-world poses of the held-out views, in the network's frame."""
        return self._in_unit_sphere(self.held_out).float()

    def _in_unit_sphere(self, dataset: Any) -> Tensor:
        if self.alignment is None:
            return torch.as_tensor(dataset.get_gt_pose(scaled=True))
        return torch.from_numpy(self.alignment.poses_to_source(given_world_poses(dataset)))

    @property
    def training_intrinsics(self) -> Tensor:
        """(B, 4, 4) K of the training views, trained if the run trained them."""
        given = given_intrinsics(self.scene)
        return given if self.corrections is None else self.corrections.of_training_views(given)

    @property
    def held_out_intrinsics(self) -> Tensor:
        """(M, 4, 4) K of the held-out views, with the mean correction of trained ones."""
        given = given_intrinsics(self.held_out)
        return given if self.corrections is None else self.corrections.of_other_views(given)

    def training_camera(self, index: int) -> Camera:
        """Returns the camera of the training view at a position, trained if the run trained it.

        Raises:
            InputError: There is no such view.
        """
        count = len(self.scene)
        if not 0 <= index < count:
            raise InputError(f"view {index}: the run has training views 0 to {count - 1}")
        return Camera(self.training_intrinsics[index], self.training_poses[index], self.img_res)

    def held_out_camera(self, index: int) -> Camera:
        """Returns the camera of the held-out view at a position; raises `InputError` without that view."""
        count = 0 if self.held_out is None else len(self.held_out)
        if not 0 <= index < count:
            raise InputError(f"view {index}: the run has {count} held-out views, from 0 on")
        return Camera(self.held_out_intrinsics[index], self.held_out_poses[index], self.img_res)


def load_run(
    path: str | Path,
    checkpoint: str = LATEST,
    device: str | torch.device | None = None,
    conf: str | Path | None = None,
    data_root: str | None = None,
) -> Run:
    """Opens a trained run.

    Args:
        path: The run's folder ``exps/<name>/<time>``, or ``exps/<name>`` for the latest run there.
        checkpoint: ``latest``, or an epoch such as ``2000``.
        device: Device of the network; None for torch's default.
        conf: Conf to use if the run has no ``runconf.conf`` (published pretrained runs).
        data_root: Folder of all data sets; None for the conf's.

    Raises:
        MissingInputError: There is no such run, checkpoint or conf.
        InputError: The checkpoint is damaged or does not fit the conf.
    """
    folder, place = locate_run(path, str(checkpoint)), None if device is None else torch.device(device)
    tree = conf_of_run(folder, conf)
    return Run(tree, folder, str(checkpoint), place, scan_id=scan_id_of(tree), data_root=data_root)
