"""Chamfer distance and F-score of a mesh against a mesh or a point cloud.

N points, numpy float64. Mesh and reference share one frame and unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from idr.datasets.points import ScenePoints
from idr.errors import InputError
from idr.evaluation.chamfer import DEFAULT_SAMPLES, Mesh, sample_surface
from idr.evaluation.point_to_mesh import point_to_mesh_distance

THRESHOLD_FRACTION = 0.01
"""Default threshold as a fraction of the diagonal of the reference's bounding box."""


@dataclass(frozen=True)
class MeshScores:
    """Distances between two surfaces, in the unit of their frame.

    Attributes:
        accuracy: Mean distance from the mesh to the reference.
        completeness: Mean distance from the reference to the mesh.
        chamfer: Mean of the two.
        threshold: Distance up to which a point counts as correct.
        precision: Fraction of the mesh within the threshold.
        recall: Fraction of the reference within the threshold.
        f_score: Harmonic mean of precision and recall; 0 if both are 0.
    """

    accuracy: float
    completeness: float
    chamfer: float
    threshold: float
    precision: float
    recall: float
    f_score: float


@dataclass(frozen=True)
class PointScores:
    """Distances from points on the true surface to a mesh, in the unit of their frame.

    Attributes:
        num_points: Number of points.
        median: Median distance.
        percentile_90: 90th percentile of the distances.
        num_held_out: Number of points that training did not use.
        median_held_out: Their median distance.
        percentile_90_held_out: The 90th percentile of theirs.
    """

    num_points: int
    median: float
    percentile_90: float
    num_held_out: int
    median_held_out: float
    percentile_90_held_out: float

    def line(self) -> str:
        """Returns the scores as a line of text."""
        return (
            f"median = {self.median:.4g} ; 90 % = {self.percentile_90:.4g} ({self.num_points} points) ; held "
            f"out: median = {self.median_held_out:.4g} ; 90 % = {self.percentile_90_held_out:.4g} "
            f"({self.num_held_out})"
        )


def point_scores(mesh: Mesh, points: ScenePoints) -> PointScores:
    """Measures the exact distances from points to a mesh in the same frame.

    A few triangulated points are wrong and would dominate a mean: hence percentiles.
    """
    distance = point_to_mesh_distance(points.points, mesh.vertices, mesh.faces)
    held_out = distance[points.held_out]
    return PointScores(
        len(distance), float(np.median(distance)), float(np.percentile(distance, 90)),
        len(held_out), float(np.median(held_out)), float(np.percentile(held_out, 90)),
    )  # fmt: skip


def mesh_scores(
    mesh: Mesh,
    reference: trimesh.Trimesh | trimesh.PointCloud,
    threshold: float | None = None,
    num_samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
) -> MeshScores:
    """Scores a mesh against a reference, by point-to-triangle distances where there are triangles.

    Args:
        mesh: The reconstruction.
        reference: The true mesh, or a point cloud whose points are used as they are.
        threshold: Threshold of the F-score; None for `THRESHOLD_FRACTION`.
        num_samples: Points drawn on each surface.
        seed: Seed of the draws.

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
    faces = getattr(reference, "faces", None)
    if isinstance(reference, trimesh.Trimesh) and faces is not None and len(faces):
        to_reference = point_to_mesh_distance(on_mesh, truth, faces)
        on_reference = sample_surface(reference, num_samples, generator)
    else:
        to_reference, on_reference = cKDTree(truth).query(on_mesh)[0], truth
    to_mesh = point_to_mesh_distance(on_reference, mesh.vertices, mesh.faces)
    accuracy, completeness = float(to_reference.mean()), float(to_mesh.mean())
    precision, recall = float((to_reference <= threshold).mean()), float((to_mesh <= threshold).mean())
    f_score = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return MeshScores(
        accuracy, completeness, 0.5 * (accuracy + completeness), threshold, precision, recall, f_score
    )
