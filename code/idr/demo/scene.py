"""Writes the built-in scene, a glazed teapot, as a data folder.

Besides the files of DATA_CONVENTION, the folder has `exact_surface.ply` (in world coordinates) and
`scene.json` (the settings). See `teapot` for the shape, `appearance` for colors, `render` for images and
`cameras` for poses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import trimesh
from numpy.typing import NDArray

from idr.demo.appearance import albedo
from idr.demo.cameras import UNIT_TO_WORLD, camera_intrinsics, holdout_views, view_poses, write_cameras
from idr.demo.render import RenderedView, render
from idr.demo.teapot import BOUNDING_RADIUS, Array, in_blocks, project_to_surface, sdf
from idr.errors import InputError, MissingInputError
from idr.files import whole_folder
from idr.geometry.camera_set import disturb_poses
from idr.progress_bar import with_progress
from idr.replacing import check_replaceable

GENERATOR = "idr built-in scene"
SURFACE_FILE, SETTINGS_FILE = "exact_surface.ply", "scene.json"
_ADDED_LATER = ("check/*.png",)
"""Files that check_scene.py adds to a scene; those of other commands are marked as ours."""
GENERATOR_VERSION = 1
"""Incremented when the same settings produce other files."""

_MOST_WORKERS = 8

Extractor = Callable[[Callable[[Array], Array], float, int], tuple[Array, NDArray[np.integer]]]
"""(sdf, half side of the cube, samples along it) -> vertices (V, 3), faces (T, 3), outward."""


@dataclass(frozen=True)
class SceneSettings:
    """Settings of a scene.

    Attributes:
        seed: Seed of the camera offsets and of the noisy cameras.
        num_views: Training views.
        num_holdout: Additional held-out views, for `dataset.holdout`.
        img_res: Height and width of the images.
        supersampling: Samples along each side of a pixel.
        noise_degrees: Mean error of the rotations in cameras_linear_init.npz.
        noise_center: Mean error of the centers there, in unit-sphere units.
        mesh_resolution: Samples along each side of the grid for the exact surface.
    """

    seed: int = 0
    num_views: int = 24
    num_holdout: int = 6
    img_res: tuple[int, int] = (128, 160)
    supersampling: int = 4
    noise_degrees: float = 1.5
    noise_center: float = 0.03
    mesh_resolution: int = 192

    def __post_init__(self) -> None:
        """Raises `InputError` if a value is out of range."""
        size, samples = self.img_res, self.supersampling
        checks = (
            ("seed", self.seed, self.seed >= 0, "0 or more"),
            ("number of training views", self.num_views, self.num_views >= 1, "at least 1"),
            ("number of held-out views", self.num_holdout, self.num_holdout >= 0, "0 or more"),
            ("image size", size, len(size) == 2 and min(size) >= 8, "height and width, each at least 8"),
            ("supersampling", samples, 1 <= samples <= 32, "1 to 32 samples along a pixel's side"),
            ("rotation noise", self.noise_degrees, 0 <= self.noise_degrees <= 90, "0 to 90 degrees"),
            ("center noise", self.noise_center, 0 <= self.noise_center <= 1, "0 to 1 unit-sphere units"),
            ("mesh resolution", self.mesh_resolution, 16 <= self.mesh_resolution <= 1024, "16 to 1024"),
        )
        for name, value, valid, expected in checks:
            if not valid:
                raise InputError(f"built-in scene: {name} {value}; expected {expected}")

    @property
    def holdout(self) -> list[int]:
        """Indices of the held-out views, for `dataset.holdout`; independent of the seed."""
        return holdout_views(self.num_views + self.num_holdout, self.num_holdout)


def scene_poses(settings: SceneSettings) -> tuple[Array, Array]:
    """Exact and disturbed poses of all views, (B, 4, 4) each, camera-to-world in the unit-sphere frame."""
    layout, noise = (np.random.default_rng([settings.seed, stream]) for stream in (0, 1))
    exact = view_poses(settings.num_views + settings.num_holdout, layout)
    return exact, disturb_poses(exact, settings.noise_degrees, settings.noise_center, noise)


def exact_mesh(extract: Extractor, resolution: int) -> tuple[Array, NDArray[np.integer]]:
    """Meshes the exact surface from `resolution` samples along each side of the cube around the object.

    Vertices, (V, 3), are in the unit-sphere frame, with |sdf| about 1e-12; faces, (T, 3), are outward.
    """
    # The margin keeps samples off the object's symmetry planes, where the function is exactly zero.
    vertices, faces = extract(sdf, BOUNDING_RADIUS + 0.0137, resolution)
    return project_to_surface(vertices), faces


def write_scene(
    folder: Path, settings: SceneSettings, extract: Extractor, overwrite: bool = False
) -> list[RenderedView]:
    """Writes the scene's folder, completely or not at all; returns the views before quantization to 8 bits.

    Raises:
        InputError: The folder is not empty, except for an earlier built-in scene with `overwrite`.
        OutputError: Writing failed.
    """
    folder = Path(folder).resolve()  # keeps a link
    check_replaceable(folder, overwrite, _is_built_in_scene, _ADDED_LATER, "this command")
    with whole_folder(folder) as unfinished:
        intrinsics = camera_intrinsics(settings.img_res)
        exact, noisy = scene_poses(settings)
        write_cameras(unfinished / "cameras.npz", intrinsics, exact)
        write_cameras(unfinished / "cameras_linear_init.npz", intrinsics, noisy)
        size = settings.img_res, settings.supersampling
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_WORKERS)) as pool:  # numpy releases the GIL
            rendered = pool.map(lambda pose: render(intrinsics, pose, *size), exact)
            views = list(with_progress(rendered, "views", len(exact)))
        (unfinished / "image").mkdir()
        (unfinished / "mask").mkdir()
        for i, view in enumerate(views):
            iio.imwrite(unfinished / "image" / f"{i:03d}.png", np.rint(255 * view.rgb).astype(np.uint8))
            iio.imwrite(unfinished / "mask" / f"{i:03d}.png", view.mask)
        write_surface(unfinished / SURFACE_FILE, *exact_mesh(extract, settings.mesh_resolution))
        record = {"generator": GENERATOR, "version": GENERATOR_VERSION, **asdict(settings)}
        record |= {"holdout": settings.holdout, "unit_to_world": UNIT_TO_WORLD.tolist()}
        (unfinished / SETTINGS_FILE).write_text(json.dumps(record, indent=2) + "\n")
    return views


def _is_built_in_scene(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / SETTINGS_FILE).read_text())["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_surface(path: Path, vertices: Array, faces: NDArray[np.integer]) -> None:
    """Writes a mesh in the unit-sphere frame as .ply in world coordinates, with its albedo as colors."""
    world = vertices @ UNIT_TO_WORLD[:3, :3].T + UNIT_TO_WORLD[:3, 3]
    color = np.rint(255 * in_blocks(albedo, vertices)).astype(np.uint8)
    trimesh.Trimesh(world, faces, vertex_colors=color, process=False).export(path)


def read_exact_mesh(folder: Path) -> tuple[Array, NDArray[np.integer]]:
    """Reads the vertices (V, 3) and faces (T, 3) of the exact surface of a built-in scene.

    They are in the scene's original unit-sphere frame, even if the camera files have a new scale_mat.

    Raises:
        MissingInputError: The folder has no exact surface.
        InputError: Its files cannot be read.
    """
    for name in (SURFACE_FILE, SETTINGS_FILE):
        if not (folder / name).is_file():
            raise MissingInputError(
                f"no {name} in {folder}; expected the built-in scene, written by "
                "preprocess/make_demo_scene.py"
            )
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text())
        to_world = np.array(settings["unit_to_world"], dtype=np.float64)
        mesh = trimesh.load_mesh(folder / SURFACE_FILE, process=False)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read the exact surface in {folder} ({error}): write the scene again"
        ) from error
    vertices = (np.asarray(mesh.vertices) - to_world[:3, 3]) @ np.linalg.inv(to_world[:3, :3]).T
    return vertices, np.asarray(mesh.faces)
