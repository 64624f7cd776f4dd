"""Alignments and their inverse; the fit itself is tested with the camera errors in tests/evaluation."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from idr.geometry.alignment import Alignment
from tests.evaluation import ball


def test_poses_to_source_inverts_the_alignment() -> None:
    rotation = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix()
    alignment = Alignment(2.5, rotation, np.array([1.0, 2.0, 3.0]))
    source = ball.unit_poses()
    target = source.copy()
    target[:, :3, :3] = rotation @ source[:, :3, :3]
    target[:, :3, 3] = [alignment.matrix[:3, :3] @ c + alignment.translation for c in source[:, :3, 3]]
    np.testing.assert_allclose(alignment.poses_to_source(target), source, atol=1e-12)
