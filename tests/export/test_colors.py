"""Colors from views against explicit sums, on a ball next to a screen."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import trimesh

from idr.errors import MissingInputError
from idr.export.colors import along_normals, over_views
from idr.export.visibility import GRAZING, Sight, view_points

IMG_RES = (40, 60)
K = np.array([[50.0, 0, 29.5], [0, 50.0, 19.5], [0, 0, 1]])


class Ball:
    """A ball of radius 1 whose color is (direction + 1) / 2: every direction shows."""

    device = torch.device("cpu")

    def at(self, points, reach):
        return BallPoints(torch.nn.functional.normalize(points, dim=-1))


class BallPoints:
    def __init__(self, points):
        self.points = self.normals = points

    def rgb01(self, directions, indices=None):
        return (torch.nn.functional.normalize(directions, dim=-1) + 1) / 2


def pose_at(center):
    """A camera that looks at the origin."""
    z = -np.asarray(center, float) / np.linalg.norm(center)
    x = np.cross(z, [0.2, 0.3, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack((x, np.cross(z, x), z))
    pose[:3, 3] = center
    return pose


CENTERS = np.array([[5.0, 0, 0], [0, 6.0, 0], [3.0, 3.0, 3.0]])
POSES = np.stack([pose_at(center) for center in CENTERS])
VIEWS = view_points(np.tile(K, (3, 1, 1)), POSES, IMG_RES)
BALL = trimesh.creation.icosphere(4)
POINTS = np.asarray(BALL.vertices)


@pytest.fixture(autouse=True)
def _embree():
    pytest.importorskip("embreex", reason="extra idr-surface[mesh] is not installed")


def seen_by(view, blocked=lambda origin, direction: False):
    """Cosine of each point by the definition, point by point."""
    result = []
    for point in POINTS:
        towards = CENTERS[view] - point
        towards /= np.linalg.norm(towards)
        cosine = towards @ point
        result.append(cosine if cosine > GRAZING and not blocked(point, towards) else 0.0)
    return np.array(result)


@pytest.mark.parametrize("view", range(3))
def test_the_ball_occludes_its_back(view):
    np.testing.assert_allclose(Sight(BALL, VIEWS).cosines(POINTS, POINTS, view), seen_by(view), atol=1e-9)


def test_the_screen_occludes_points_behind_it():
    # A square before the first camera, x = 2, |y| < 0.5, |z| < 0.5.
    corners = np.array([[2, -0.5, -0.5], [2, 0.5, -0.5], [2, 0.5, 0.5], [2, -0.5, 0.5]])
    screen = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    sight = Sight(trimesh.util.concatenate([BALL, screen]), VIEWS)

    def blocked(origin, direction):
        crossing = origin + direction * (2 - origin[0]) / direction[0]
        return np.abs(crossing[1:]).max() < 0.5

    expected = seen_by(0, blocked)
    got = sight.cosines(POINTS, POINTS, 0)
    differ = (got > 0) != (expected > 0)
    assert differ.mean() < 0.005  # rays through the screen's rim start a little above the surface
    assert ((got == 0) & (seen_by(0) > 0)).sum() > 20, "the screen hides something"


def test_points_outside_the_image_are_not_seen():
    narrow = view_points(
        np.diag([400.0, 400, 1])[None] + [[[0, 0, 29.5], [0, 0, 19.5], [0, 0, 0]]], POSES[:1], IMG_RES
    )
    got = Sight(BALL, narrow).cosines(POINTS, POINTS, 0) > 0
    in_axes = (POINTS - CENTERS[0]) @ POSES[0, :3, :3]
    u, v = 400 * in_axes[:, 0] / in_axes[:, 2] + 29.5, 400 * in_axes[:, 1] / in_axes[:, 2] + 19.5
    framed = (u >= -0.5) & (u < 59.5) & (v >= -0.5) & (v < 39.5)
    np.testing.assert_array_equal(got, framed & (seen_by(0) > 0))
    assert 0 < got.sum() < (seen_by(0) > 0).sum()


@pytest.mark.parametrize("chunk", [97, 10**6])
def test_mean_over_views_is_weighted_by_cosine(chunk):
    colors = over_views(Ball(), Sight(BALL, VIEWS), chunk)(POINTS, POINTS)
    weights = np.stack([seen_by(view) for view in range(3)])
    towards = CENTERS[:, None] - POINTS
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    total = (weights[..., None] * (towards + 1) / 2).sum(axis=0)
    unseen = weights.sum(axis=0) == 0
    expected = np.where(unseen[:, None], (POINTS + 1) / 2, total / weights.sum(axis=0).clip(1e-9)[:, None])
    np.testing.assert_allclose(colors.rgb, expected, atol=1e-5)  # float32
    assert colors.num_unseen == unseen.sum() > 0


def test_color_along_the_normal():
    colors = along_normals(Ball(), 100)(1.01 * POINTS, POINTS)
    np.testing.assert_allclose(colors.rgb, (POINTS + 1) / 2, atol=1e-6)
    assert colors.num_unseen == 0


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex", None)
    with pytest.raises(MissingInputError, match=r"--colors normal\) needs embreex.*idr-surface\[mesh\]"):
        Sight(BALL, VIEWS)
