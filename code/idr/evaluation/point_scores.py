"""Distances from known points of the surface to a mesh, in the unit of their frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from idr.datasets.points import ScenePoints
from idr.evaluation.point_to_mesh import point_to_mesh_distance


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


def point_scores(mesh: trimesh.Trimesh, points: ScenePoints) -> PointScores:
    """Measures the exact distances from points to a mesh in the same frame.

    A few triangulated points are wrong and would dominate a mean: hence percentiles.
    """
    distance = point_to_mesh_distance(points.points, mesh.vertices, mesh.faces)
    held_out = distance[points.held_out]
    return PointScores(
        len(distance), float(np.median(distance)), float(np.percentile(distance, 90)),
        len(held_out), float(np.median(held_out)), float(np.percentile(held_out, 90)),
    )  # fmt: skip
