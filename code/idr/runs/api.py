"""A trained run as an object: its surface, its colors, its views.

N points, H, W image height and width. All coordinates are those of the unit sphere, in which the network
lives; `LoadedRun.world_from_unit` leads to world coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import trimesh
from numpy.typing import ArrayLike, NDArray
from pyhocon import ConfigTree
from torch import Tensor
from torch.nn import functional

from idr.conf.build import scan_id_of
from idr.errors import InputError
from idr.evaluation.reconstruction import Reconstruction, join_scene, unit_surface
from idr.meshing import largest_component
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS
from idr.rendering import DEFAULT_CHUNK_PIXELS, RenderedImage, render_image
from idr.runs.opened import LoadedModel, conf_of_run, load_model, locate_run
from idr.runs.shading import ShadedPoints, gradient_of

Points = TypeVar("Points", Tensor, ArrayLike)


@dataclass(frozen=True)
class Camera:
    """A camera to render through; numpy arrays, tensors or nested lists.

    Attributes:
        intrinsics: (3, 3) or (4, 4) K in pixels; pixel (0, 0) is the center of the first one.
        pose: (4, 4) camera-to-world, axes x right, y down, z forward, unit-sphere coordinates; or (7,)
            quaternion (w, x, y, z) and center.
        img_res: Height and width.
    """

    intrinsics: ArrayLike
    pose: ArrayLike
    img_res: tuple[int, int]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns K as (4, 4) and the pose, float32 on a device.

        Raises:
            InputError: K has another shape.
        """
        given = torch.as_tensor(self.intrinsics, dtype=torch.float32)
        if tuple(given.shape) not in {(3, 3), (4, 4)}:
            raise InputError(f"camera intrinsics of shape {tuple(given.shape)}: expected (3, 3) or (4, 4)")
        intrinsics = torch.eye(4)
        intrinsics[:3, :3] = given[:3, :3]
        return intrinsics.to(device), torch.as_tensor(self.pose, dtype=torch.float32).to(device)


class LoadedRun:
    """A trained run; made by `load_run`.

    Methods on points take tensors or numpy arrays of shape (..., 3) and answer in kind, without gradients;
    ``model`` is there for those who need them.

    Attributes:
        folder: The run's folder.
        conf: The conf it was trained with.
        epoch: Epoch of the checkpoint.
        model: The network, in evaluation mode.
        device: Where the network is.
    """

    def __init__(
        self, folder: Path, conf: ConfigTree, loaded: LoadedModel, data_root: str | None = None
    ) -> None:
        self.folder = folder
        self.conf = conf
        self._loaded = loaded
        self._data_root = data_root
        self.epoch = loaded.epoch
        self.model = loaded.model
        self.device = loaded.device

    def sdf(self, x: Points) -> Points:
        """Signed distance.

        Args:
            x: (..., 3) points.

        Returns:
            (...,) distances, negative inside.
        """
        return self._at_points(lambda points: self._loaded.sdf(points), x)

    def normal(self, x: Points) -> Points:
        """Unit gradient of the signed distance, which on the surface is its outward normal.

        Args:
            x: (..., 3) points.

        Returns:
            (..., 3) unit vectors; 0 where the gradient vanishes.
        """
        return self._at_points(
            lambda points: functional.normalize(gradient_of(self.model, points), dim=-1), x
        )

    def color(self, x: Points, view: Points) -> Points:
        """Color of points on the surface, seen from somewhere.

        Args:
            x: (..., 3) points; the network was trained on the surface only.
            view: (..., 3) directions from the points to the camera, of any length; one direction serves
                for all points.

        Returns:
            (..., 3) RGB in [0, 1].
        """

        def shade(points: Tensor, directions: Tensor) -> Tensor:
            return ShadedPoints(self.model, points).rgb01(directions)

        return self._at_points(shade, x, view)

    def render(self, camera: Camera | int, chunk_pixels: int = DEFAULT_CHUNK_PIXELS) -> RenderedImage:
        """Renders a view.

        Args:
            camera: A camera, or the position of a training view, for which the scene's folder is read.
            chunk_pixels: Pixels rendered at once; bounds memory.

        Returns:
            The image; ``rgb01`` are its colors in [0, 1].

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
        """Meshes the surface, as evaluation does.

        Args:
            resolution: Grid samples along the shortest side.
            chunk_points: Points evaluated at once; bounds memory.
            dense: Evaluate all samples, not only those that the surface needs.

        Returns:
            The largest component in unit-sphere coordinates, faces outward; None without a surface.
        """
        mesh = unit_surface(self._loaded, resolution, False, chunk_points, dense)
        return None if mesh is None else largest_component(mesh)

    def training_camera(self, index: int) -> Camera:
        """Returns the camera of a training view, trained if the run trained its cameras.

        Args:
            index: Position among the training views.

        Raises:
            InputError: There is no such view.
        """
        count = len(self.scene.dataset)
        if not 0 <= index < count:
            raise InputError(f"view {index}: the run has training views 0 to {count - 1}")
        height, width = (int(size) for size in self.scene.dataset.img_res)
        scene = self.scene
        return Camera(scene.training_intrinsics[index], scene.training_poses[index], (height, width))

    @property
    def world_from_unit(self) -> NDArray[np.float64]:
        """(4, 4) map from unit-sphere to world coordinates; the scene's folder is read for it."""
        return self.scene.world_from_unit

    @cached_property
    def scene(self) -> Reconstruction:
        """The run beside the scene it was trained on; the scene's folder is read for it."""
        return join_scene(self._loaded, self.conf, scan_id_of(self.conf), self._data_root)

    def _at_points(self, function: Callable[..., Tensor], *inputs: Points) -> Points:
        """Evaluates chunk by chunk without gradients; the answer is of the first input's kind and place."""
        first = inputs[0]
        on_device = (torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in inputs)
        tensors = torch.broadcast_tensors(*on_device)
        shape = tensors[0].shape
        if not shape or shape[-1] != 3:
            raise InputError(f"points of shape {tuple(shape)}: expected (..., 3)")
        flat = [value.reshape(-1, 3) for value in tensors]
        with torch.no_grad():
            pieces = [
                function(*chunk) for chunk in zip(*(f.split(DEFAULT_CHUNK_POINTS) for f in flat), strict=True)
            ]
        result = torch.cat(pieces).detach()
        result = result.reshape(shape[:-1] + result.shape[1:])
        return result.to(first.device) if isinstance(first, Tensor) else result.cpu().numpy()


def load_run(
    path: str | Path,
    checkpoint: str = "latest",
    device: str | torch.device | None = None,
    conf: str | Path | None = None,
    data_root: str | None = None,
) -> LoadedRun:
    """Loads a trained run.

    Args:
        path: The run's folder ``exps/<name>/<time>``, or ``exps/<name>`` for the latest run there.
        checkpoint: ``latest``, or an epoch such as ``2000``.
        device: Where the network is put; None for torch's default device.
        conf: Conf to take where the run holds no ``runconf.conf`` (published pretrained runs).
        data_root: Folder of the data sets, or None for the conf's. The scene is read only when a training
            view or world coordinates are asked for.

    Returns:
        The run.

    Raises:
        MissingInputError: There is no such run, checkpoint or conf.
        InputError: The checkpoint is damaged or does not fit the conf.
    """
    folder = locate_run(path, str(checkpoint))
    tree = conf_of_run(folder, conf)
    place = torch.get_default_device() if device is None else torch.device(device)
    return LoadedRun(folder, tree, load_model(tree, folder, str(checkpoint), place), data_root)
