"""Chamfer distance and F-score of a mesh against a mesh or a point cloud.

N points. numpy in float64; both stand in one frame, in any unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from idr.errors import InputError
from idr.evaluation.chamfer import DEFAULT_SAMPLES, Mesh, sample_surface
from idr.evaluation.point_to_mesh import point_to_mesh_distance

THRESHOLD_SHARE = 0.01


@dataclass(frozen=True)
class MeshScores:
    """How near two surfaces are, in the unit of their frame.

    Attributes:
        accuracy: Mean distance from the mesh to the reference.
        completeness: Mean distance from the reference to the mesh.
        chamfer: Mean of the two.
        threshold: Distance up to which a point counts as right.
        precision: Share of the mesh within the threshold.
        recall: Share of the reference within the threshold.
        f_score: Harmonic mean of the two; 0 where both are 0.
    """

    accuracy: float
    completeness: float
    chamfer: float
    threshold: float
    precision: float
    recall: float
    f_score: float


def mesh_scores(
    mesh: Mesh,
    reference: trimesh.Trimesh | trimesh.PointCloud,
    threshold: float | None = None,
    num_samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
) -> MeshScores:
    """Measures a mesh, from points to triangles wherever there are triangles.

    Args:
        mesh: The reconstruction.
        reference: The truth: triangles, or points, each of which then counts once.
        threshold: Of the F-score; None for a hundredth of the diagonal of the reference's bounding box.
        num_samples: Points drawn on each surface.
        seed: Of the draws.

    Returns:
        The scores.

    Raises:
        InputError: A surface without area, or a threshold that is not positive.
    """
    generator = np.random.default_rng(seed)
    truth = np.asarray(reference.vertices, dtype=np.float64)
    if threshold is None:
        threshold = THRESHOLD_SHARE * float(np.linalg.norm(np.ptp(truth, axis=0)))
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
