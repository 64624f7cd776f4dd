"""Chamfer distance and F-score of surfaces, by point-to-triangle distances.

N points, V vertices, T triangles, numpy float64. Both surfaces share one frame, by convention the unit
sphere's: map a mesh in world coordinates by the inverse of its scale_mat first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from idr.errors import InputError
from idr.evaluation.point_to_mesh import closest_points, point_to_mesh_distance

Array = NDArray[np.float64]

DEFAULT_SAMPLES = 100_000
THRESHOLD_FRACTION = 0.01
"""Default threshold as a fraction of the diagonal of the reference's bounding box."""
_PROJECTION_ITERATIONS = 12
_NEWTON_STEPS = 3
_LARGEST_NEWTON_STEP = 0.05  # as a fraction of the surface's extent


@dataclass(frozen=True)
class ChamferResult:
    """Mean distances between two surfaces, in the unit of their frame.

    Attributes:
        accuracy: Mean distance from the reconstructed to the true surface.
        completeness: Mean distance from the true to the reconstructed surface.
        chamfer: Mean of the two.
    """

    accuracy: float
    completeness: float
    chamfer: float


@dataclass(frozen=True)
class MeshScores(ChamferResult):
    """Chamfer distance and F-score.

    Attributes:
        threshold: Distance up to which a point counts as correct.
        precision: Fraction of the mesh within the threshold.
        recall: Fraction of the reference within the threshold.
        f_score: Harmonic mean of precision and recall; 0 if both are 0.
    """

    threshold: float
    precision: float
    recall: float
    f_score: float


def chamfer(
    mesh: trimesh.Trimesh,
    reference: trimesh.Trimesh,
    num_samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    exact_distance: Callable[[Array], Array] | None = None,
) -> ChamferResult:
    """Returns the mean distances between a reconstruction and the true surface.

    Args:
        mesh: The reconstruction.
        reference: The true surface, in the same frame.
        num_samples: Points drawn on each surface.
        seed: Seed of the draws.
        exact_distance: (N, 3) -> (N,) distance to the true surface, used for the accuracy in place of the
            triangles of `reference`.

    Raises:
        InputError: A mesh has no triangles or no area, or a number in it is not finite.
    """
    generator = np.random.default_rng(seed)
    on_mesh, on_reference = (sample_surface(each, num_samples, generator) for each in (mesh, reference))
    if exact_distance is None:
        to_reference = point_to_mesh_distance(on_mesh, reference.vertices, reference.faces)
    else:
        to_reference = np.abs(exact_distance(on_mesh))
    to_mesh = point_to_mesh_distance(on_reference, mesh.vertices, mesh.faces)
    return ChamferResult(*_means(to_reference, to_mesh))


def _means(to_reference: Array, to_mesh: Array) -> tuple[float, float, float]:
    accuracy, completeness = float(to_reference.mean()), float(to_mesh.mean())
    return accuracy, completeness, 0.5 * (accuracy + completeness)


def mesh_scores(
    mesh: trimesh.Trimesh,
    reference: trimesh.Trimesh | trimesh.PointCloud,
    threshold: float | None = None,
    num_samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
) -> MeshScores:
    """Scores a mesh against a reference mesh, or a point cloud whose points are used as they are.

    Distances are to triangles where there are some. `threshold` is by default `THRESHOLD_FRACTION`; for the
    other arguments, see `chamfer`.

    Raises:
        InputError: A surface has no area, or the threshold is not positive.
    """
    generator = np.random.default_rng(seed)
    truth = np.asarray(reference.vertices, dtype=np.float64)
    if threshold is None:
        threshold = THRESHOLD_FRACTION * float(np.linalg.norm(np.ptp(truth, axis=0)))
    if not np.isfinite(threshold) or threshold <= 0:
        raise InputError(f"threshold {threshold:g}: expected a positive distance; give one with --threshold")
    on_mesh = sample_surface(mesh, num_samples, generator)
    if isinstance(reference, trimesh.Trimesh) and len(reference.faces):
        to_reference = point_to_mesh_distance(on_mesh, truth, reference.faces)
        on_reference = sample_surface(reference, num_samples, generator)
    else:
        to_reference, on_reference = cKDTree(truth).query(on_mesh)[0], truth
    to_mesh = point_to_mesh_distance(on_reference, mesh.vertices, mesh.faces)
    precision, recall = float((to_reference <= threshold).mean()), float((to_mesh <= threshold).mean())
    f_score = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return MeshScores(*_means(to_reference, to_mesh), threshold, precision, recall, f_score)


def sample_surface(mesh: trimesh.Trimesh, num_samples: int, generator: np.random.Generator) -> Array:
    """Returns (N, 3) points drawn on a mesh, uniformly by area.

    Raises:
        InputError: The mesh has no area, or N is below 1.
    """
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces)
    if num_samples < 1:
        raise InputError(f"{num_samples} samples asked of a surface; expected at least 1")
    corners = vertices[faces] if len(faces) else np.zeros((0, 3, 3))
    sides = corners[:, 1:] - corners[:, :1]  # (T, 2, 3)
    cumulative = np.cumsum(np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1))
    if not len(cumulative) or not np.isfinite(cumulative[-1]) or cumulative[-1] <= 0:
        raise InputError(
            f"mesh with {len(faces)} triangles and no finite area: there is no surface to compare"
        )
    chosen = np.searchsorted(cumulative, generator.uniform(0, cumulative[-1], num_samples), side="right")
    chosen = np.minimum(chosen, len(faces) - 1)
    weights = generator.uniform(size=(num_samples, 2))
    outside = weights.sum(axis=1) > 1  # the other half of the parallelogram: reflect it
    weights[outside] = 1 - weights[outside]
    return corners[chosen, 0] + np.einsum("nk,nkd->nd", weights, sides[chosen])


def distance_to_zero_set(
    points: Array, sdf: Callable[[Array], Array], gradient: Callable[[Array], Array], mesh: trimesh.Trimesh
) -> Array:
    """Returns distances to the zero set of a function, more accurate than those to a mesh of it.

    Starting at the nearest point of the mesh, the foot point alternately moves along the surface towards the
    query and back onto the zero set by Newton's method. The smallest distance found is returned.

    Args:
        points: (N, 3).
        sdf: (n, 3) -> (n,) values, zero on the surface, smooth near it, with nonzero gradient.
        gradient: (n, 3) -> (n, 3) its gradient.
        mesh: Dense mesh of the zero set, in the same frame.

    Returns:
        (N,) unsigned distances.
    """
    points = np.asarray(points, dtype=np.float64)
    found = closest_points(points, mesh.vertices, mesh.faces)
    longest = _LARGEST_NEWTON_STEP * float(np.ptp(np.asarray(mesh.vertices), axis=0).max())
    feet, slopes = _onto_zero_set(found.points, sdf, gradient, longest)
    best = np.linalg.norm(points - feet, axis=1)
    nearest, slope_there = feet.copy(), slopes.copy()
    step = np.ones(len(points))
    for _ in range(_PROJECTION_ITERATIONS):
        active = np.flatnonzero(step > 1e-2)
        if not active.size:
            break
        slope = slope_there[active]
        normals = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)
        offset = points[active] - nearest[active]
        tangential = offset - np.einsum("ij,ij->i", offset, normals)[:, None] * normals
        moved = nearest[active] + step[active, None] * tangential
        feet, slopes = _onto_zero_set(moved, sdf, gradient, longest)
        distance = np.linalg.norm(points[active] - feet, axis=1)
        better = distance < best[active]
        improved = active[better]
        gain = best[improved] - distance[better]
        best[improved], nearest[improved] = distance[better], feet[better]
        slope_there[improved] = slopes[better]
        step[active[~better]] *= 0.5
        step[improved[gain < 1e-10]] = 0.0
    return best


def _onto_zero_set(
    points: Array, sdf: Callable[[Array], Array], gradient: Callable[[Array], Array], longest: float
) -> tuple[Array, Array]:
    """Newton's method along the gradient; returns points, and gradients before the last step."""
    for _ in range(_NEWTON_STEPS):
        slope = gradient(points)
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        step = np.clip(sdf(points)[:, None] / np.maximum(length, 1e-6), -longest, longest)
        points = points - step * slope / np.maximum(length, 1e-12)
    return points, slope
