"""The colored surface of a run, and the turnable scene of a page: surface, cameras and their ways."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import numpy as np
import trimesh
from markupsafe import Markup
from numpy.typing import NDArray

from idr.evaluation.report.figures import END, GIVEN, PATH, START, camera_paths
from idr.export.colors import Coloring, along_normals, over_views
from idr.export.surface import Surface
from idr.export.tidy import decimate
from idr.export.visibility import Sight, view_points
from idr.geometry.alignment import rotation_of
from idr.geometry.paths import upright_of_cameras
from idr.meshing import transform_mesh
from idr.meshing.sampling import DEFAULT_CHUNK_POINTS
from idr.pictures.turntable import Body, Lines, frustums, turntable
from idr.runs import Run
from idr.runs.shading import SurfaceShader

PAGE_FACES = 60_000
"""Faces on a page, about 1 MB: a finer mesh looks the same on a screen."""


def coloring_of(
    run: Run, shader: SurfaceShader, mesh: trimesh.Trimesh, from_views: bool, chunk_points: int
) -> Coloring:
    """Returns what colors points of a mesh: the training views that see them, or views along normals."""
    if not from_views:
        return along_normals(shader, chunk_points)
    views = view_points(run.training_intrinsics.numpy(), run.training_poses.numpy(), run.img_res)
    return over_views(shader, Sight(mesh, views), chunk_points)


def color_surface(run: Run, mesh: trimesh.Trimesh, chunk_points: int = DEFAULT_CHUNK_POINTS) -> Surface:
    """Returns a mesh in unit-sphere coordinates with the run's normals and colors.

    Colors are the mean over the training views that see a point; without the package embreex, which tells
    what they see, those along the normal.
    """
    shader = SurfaceShader(run.model, run.device)
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    normals = np.asarray(run.normal(vertices), dtype=np.float64)
    has_rays = importlib.util.find_spec("embreex") is not None
    coloring = coloring_of(run, shader, mesh, has_rays, chunk_points)
    return Surface(vertices, np.asarray(mesh.faces), normals, coloring(vertices, normals).rgb)


def reduced(mesh: trimesh.Trimesh, num_faces: int = PAGE_FACES) -> trimesh.Trimesh:
    """Returns a mesh of about so many faces; the mesh itself without the package fast-simplification."""
    if len(mesh.faces) <= num_faces or importlib.util.find_spec("fast_simplification") is None:
        return mesh
    return decimate(mesh, num_faces)


def upright(run: Run) -> NDArray[np.float64]:
    """Returns the rotation, (3, 3), from unit-sphere coordinates to glTF's axes; see `upright_of_cameras`."""
    return upright_of_cameras(run.training_poses.double().numpy())


def upright_world(run: Run) -> NDArray[np.float64]:
    """Returns the rotation, (3, 3), from world coordinates to glTF's axes; see `upright`."""
    return upright(run) @ rotation_of(run.world_from_unit).T


def color_world_mesh(run: Run, mesh: trimesh.Trimesh) -> Surface:
    """Returns a mesh in world coordinates, reduced for a page, as `color_surface` colors it."""
    unit = transform_mesh(mesh, np.linalg.inv(run.world_from_unit))
    return color_surface(run, reduced(unit)).moved(run.world_from_unit)


def show_surface(run: Run, mesh: trimesh.Trimesh | None) -> Markup:
    """Returns HTML with the turnable surface of a run, its cameras and the ways of trained cameras."""
    surfaces = {} if mesh is None else {"surface": color_surface(run, reduced(mesh))}
    poses = run.training_poses.double().numpy()
    lines = [Lines("cameras", END, _frustums(run, poses))]
    paths = camera_paths(run) if run.trained_poses is not None else None
    if paths is not None:
        centers = paths[:, :, :3, 3].transpose(1, 0, 2)  # (B, T, 3)
        ways = np.stack((centers[:, :-1], centers[:, 1:]), axis=2).reshape(-1, 2, 3)
        given = run.given_poses.double().numpy()
        lines += [
            Lines("cameras of the first checkpoint", START, _frustums(run, paths[0])),
            Lines("given cameras, aligned", GIVEN, _frustums(run, given)),
            Lines("where the cameras went", PATH, ways),
        ]
    return show_surfaces(surfaces, upright(run), lines)


def show_surfaces(
    surfaces: Mapping[str, Surface], rotation: NDArray[np.float64], lines: list[Lines] | None = None
) -> Markup:
    """Returns HTML with turnable surfaces by name, and lines, rotated to glTF's axes."""
    bodies = [
        Body(name, s.vertices @ rotation.T, s.faces, s.normals @ rotation.T, s.colors)
        for name, s in surfaces.items()
    ]
    turned = [Lines(line.name, line.color, line.segments @ rotation.T) for line in lines or ()]
    return turntable(bodies, turned)


def _frustums(run: Run, poses: NDArray[np.float64]) -> NDArray[np.floating]:
    height, width = run.img_res
    return frustums(poses, width / height)

