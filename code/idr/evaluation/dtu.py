"""The DTU protocol: a reconstruction against the structured-light scan, in millimeters.

N sampled points, M scan points. World frame of the data set, numpy float64.

The mesh is sampled at most 0.2 mm apart, and the samples are thinned so that no two are closer than 0.2 mm.
Accuracy: mean distance to the scan of the samples in the box BB, enlarged by 60 mm (120 mm at the far side),
whose voxel is observed. Completeness: mean distance of the scan points above the ground plane to the samples
in the enlarged box. Distances of 20 mm or more are dropped. Overall: mean of both. (Jensen et al., CVPR 2014;
Aanaes et al., IJCV 2016)

The observation mask selects the samples whose distances count, not the targets: completeness uses all samples
in the enlarged box. This follows the official MATLAB evaluation: `MaxDistCP(Qdata, Qstl, BB, 60)` searches
every thinned point, cell by cell with 60 mm around each cell (hence the enlarged box), before `DataInMask` is
computed; `DataInMask` then selects `Ddata` only, as `StlAbovePlane` selects `Dstl`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from idr.errors import InputError, MissingInputError
from idr.progress_bar import with_progress

Array = NDArray[np.float64]

SPACING = 0.2
"""Distance of samples on the mesh, mm."""

MAX_DISTANCE = 20.0
"""Distances from here on are dropped, mm."""

BEFORE_BOX, BEHIND_BOX = 60.0, 120.0
"""Enlargement of the box at its lower and upper sides, mm."""

_CHUNK = 8192
SOURCE = (
    "the official data are at https://roboimagedata.compute.dtu.dk/?page_id=36: Points.zip holds "
    "Points/stl/, SampleSet.zip holds ObsMask/"
)


@dataclass(frozen=True)
class DTUReference:
    """The official data of a scan.

    Attributes:
        points: (M, 3) the structured-light scan, mm.
        observed: (X, Y, Z) bool, the observation mask.
        box: (2, 3) lower and upper corner of the mask's box (BB), mm.
        resolution: Side of a voxel (Res), mm.
        plane: (4,) P; P . [x, 1] > 0 is above the ground.
    """

    points: Array
    observed: NDArray[np.bool_]
    box: Array
    resolution: float
    plane: Array


@dataclass(frozen=True)
class DTUScores:
    """Results of the protocol, mm.

    Attributes:
        accuracy: Mean distance from the reconstruction to the scan.
        completeness: Mean distance from the scan to the reconstruction.
        overall: Mean of the two.
        num_observed: Samples of the reconstruction that were measured, including those beyond 20 mm.
        num_above: Points of the scan that were measured, likewise.
    """

    accuracy: float
    completeness: float
    overall: float
    num_observed: int
    num_above: int


def read_reference(folder: Path, scan: int) -> DTUReference:
    """Reads ``Points/stl/stl%03d_total.ply``, ``ObsMask/ObsMask%d_10.mat`` and ``ObsMask/Plane%d.mat``.

    Raises:
        MissingInputError: A file is missing; the message names its source.
        InputError: A file is unreadable or has other contents.
    """
    cloud = folder / "Points" / "stl" / f"stl{scan:03d}_total.ply"
    mask_path = folder / "ObsMask" / f"ObsMask{scan}_10.mat"
    plane_path = folder / "ObsMask" / f"Plane{scan}.mat"
    for path in (cloud, mask_path, plane_path):
        if not path.is_file():
            raise MissingInputError(f"no file {path}; {SOURCE}")
    points = read_geometry(cloud).vertices
    mask = _read_mat(mask_path, ("ObsMask", "BB", "Res"))
    plane = _read_mat(plane_path, ("P",))["P"].astype(np.float64).reshape(-1)
    box, observed = mask["BB"].astype(np.float64), mask["ObsMask"] != 0
    resolution = mask["Res"].astype(np.float64).reshape(-1)
    if box.shape != (2, 3) or observed.ndim != 3 or resolution.size != 1 or not resolution[0] > 0:
        raise InputError(
            f"{mask_path}: ObsMask {observed.shape}, BB {box.shape}, Res {resolution}: expected three "
            f"dimensions, (2, 3) and one positive number; {SOURCE}"
        )
    if not (box[0] < box[1]).all():
        raise InputError(f"{mask_path}: BB {box.tolist()}: expected the lower corner first; {SOURCE}")
    if plane.shape != (4,):
        raise InputError(f"{plane_path}: P has {plane.size} numbers, expected 4; {SOURCE}")
    return DTUReference(np.asarray(points, dtype=np.float64), observed, box, float(resolution[0]), plane)


def _read_mat(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    """Reads arrays of finite real numbers."""
    try:
        content = scipy.io.loadmat(str(path), variable_names=names)
    except Exception as error:  # scipy raises many kinds of errors for other files
        raise InputError(f"{path} is no readable .mat file ({error}); {SOURCE}") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise InputError(f"{path} holds no {', '.join(missing)}; {SOURCE}")
    for name in names:
        value = content[name]
        is_real = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        if not is_real or not np.isfinite(value).all():
            kind = getattr(value, "dtype", type(value).__name__)
            raise InputError(f"{path}: {name} ({kind}) is no array of finite real numbers; {SOURCE}")
    return content


def read_geometry(path: Path) -> trimesh.Trimesh | trimesh.PointCloud:
    """Reads a mesh or a point cloud (PLY, OBJ, STL, GLB) without merging vertices.

    Raises:
        MissingInputError: No such file.
        InputError: It is not readable, or has no point.
    """
    if not path.is_file():
        raise MissingInputError(f"no file {path}: expected a mesh or point cloud (.ply, .obj, .stl, .glb)")
    try:
        found = trimesh.load(str(path), process=False)
        if isinstance(found, trimesh.Scene):
            found = found.to_geometry()
    except Exception as error:  # each format's reader raises its own errors
        raise InputError(
            f"{path} is not readable ({error}); expected a mesh or point cloud as .ply, .obj, .stl or .glb"
        ) from error
    if not isinstance(found, (trimesh.Trimesh, trimesh.PointCloud)) or not len(found.vertices):
        raise InputError(f"{path} holds no vertices; expected a mesh or point cloud")
    if not np.isfinite(found.vertices).all():
        raise InputError(f"{path} holds coordinates that are not finite; export it again")
    return found


def dtu_scores(mesh: trimesh.Trimesh, reference: DTUReference, seed: int = 0) -> DTUScores:
    """Scores a mesh in world coordinates, mm; `seed` is that of the order of thinning.

    Raises:
        InputError: No point of the mesh or of the scan is selected, or none is within 20 mm of the other.
    """
    points = thin_points(points_on_triangles(mesh, SPACING), SPACING, np.random.default_rng(seed))
    lower, upper = reference.box
    points = points[((points >= lower - BEFORE_BOX) & (points < upper + BEHIND_BOX)).all(axis=1)]
    voxels = np.round((points - lower) / reference.resolution).astype(np.int64)
    within = ((voxels >= 0) & (voxels < reference.observed.shape)).all(axis=1)
    observed = points[within][reference.observed[tuple(voxels[within].T)]]
    above = reference.points[reference.points @ reference.plane[:3] + reference.plane[3] > 0]
    if not len(observed) or not len(above):
        raise InputError(
            f"{len(observed)} points of the mesh are observed and {len(above)} points of the scan lie above "
            "the plane; expected a mesh in the world coordinates of the scan, in millimeters "
            "(surface_world_coordinates_*.ply)"
        )
    accuracy = _mean_within(cKDTree(reference.points).query(observed)[0])
    completeness = _mean_within(cKDTree(points).query(above)[0])
    return DTUScores(accuracy, completeness, 0.5 * (accuracy + completeness), len(observed), len(above))


def _mean_within(distances: Array) -> float:
    near = distances[distances < MAX_DISTANCE]
    if not len(near):
        raise InputError(
            f"mesh and scan are nowhere within {MAX_DISTANCE:g} mm of one another; expected the same scan, "
            "in world coordinates, in millimeters"
        )
    return float(near.mean())


def points_on_triangles(mesh: trimesh.Trimesh, spacing: float) -> Array:
    """Returns the points of a triangular lattice on each triangle, (N, 3), corners included.

    Neighbors along a side are at most `spacing` apart. Corners that triangles share are repeated.

    Raises:
        InputError: The mesh has no triangle.
    """
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces)
    if not len(faces):
        raise InputError("mesh without a triangle: there is no surface to measure")
    corners = vertices[faces]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    parts = np.maximum(np.ceil(longest / spacing).astype(np.int64), 1)
    found = []
    for count in np.unique(parts):
        i, j = np.mgrid[: count + 1, : count + 1].reshape(2, -1)
        i, j = i[i + j <= count], j[i + j <= count]
        weights = np.stack([count - i - j, i, j], axis=1) / count  # (lattice points, 3)
        found.append(np.einsum("lk,tkd->tld", weights, corners[parts == count]).reshape(-1, 3))
    return np.concatenate(found)


def thin_points(points: Array, spacing: float, generator: np.random.Generator) -> Array:
    """Returns a maximal subset, (K, 3), of (N, 3) points that are pairwise at least `spacing` apart.

    Points are visited in random order and kept if they are far enough from the points kept before. Only
    points not yet excluded are visited: 12 million points take 17 s on one thread.
    """
    points = points[generator.permutation(len(points))]
    tree, alive = cKDTree(points), np.ones(len(points), dtype=bool)
    for begin in with_progress(range(0, len(points), _CHUNK), "thinning"):
        candidates = begin + np.flatnonzero(alive[begin : begin + _CHUNK])
        near = tree.query_ball_point(points[candidates], np.nextafter(spacing, 0.0))
        for candidate, around in zip(candidates, near, strict=True):
            if alive[candidate]:
                alive[around] = False
                alive[candidate] = True
    return points[alive]
