"""Carving against plain loops over all points, and its edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from idr.preprocess import visual_hull
from idr.preprocess.visual_hull import Carver, fewest_views, nearest_pixels, needed_views
from tests.preprocess.scenes import ellipsoid_views, ring_centers, sphere_centers


@pytest.mark.parametrize(
    ("count", "needed"), [(49, 45), (16, 15), (12, 12), (5, 5), (2, 2), (98, 90), (0, 0)]
)
def test_needed_views_is_the_published_share(count, needed):
    assert needed_views(count) == needed


@pytest.mark.parametrize(("count", "fewest"), [(2, 2), (3, 2), (5, 3), (16, 8), (49, 25)])
def test_fewest_views(count, fewest):
    assert fewest_views(count) == fewest


def test_views_that_may_disagree_never_get_fewer():
    """The pruning relies on it."""
    counts = np.arange(500)
    assert (np.diff(counts - needed_views(counts)) >= 0).all()


def _slow_counts(carver, point):
    """Views that see a point, and see it inside, one pixel at a time."""
    seen = inside = 0
    for mask, projection in zip(carver.views.masks, carver.projections, strict=True):
        x, y, w = projection @ np.append(point, 1.0)
        if w <= 0:
            continue
        column, row = math.floor(x / w + 0.5), math.floor(y / w + 0.5)
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            seen += 1
            inside += bool(mask[row, column])
    return seen, inside


def test_counts_equal_a_slow_loop():
    views = ellipsoid_views(ring_centers(7, height=0.4), (1.0, 0.6, 0.8))
    carver = Carver(views, np.array([0.1, 0.2, -0.1]), 1.3)
    points = np.random.default_rng(0).uniform(-8, 8, (400, 3))  # many behind cameras or out of the image
    seen, inside = carver.count_views(points)
    slow = np.array([_slow_counts(carver, point) for point in points])
    assert (slow[:, 0] > 0).any() and (slow[:, 0] < 7).any() and (slow[:, 1] > 0).any()
    np.testing.assert_array_equal(np.column_stack([seen, inside]), slow)


@pytest.mark.parametrize("thin", [1.0, 0.08])
@pytest.mark.parametrize(
    "centers", [sphere_centers(14), ring_centers(6, 70.0, 0.3), ring_centers(20, distance=3.2)]
)
def test_pruning_loses_nothing(monkeypatch, centers, thin):
    """Coarse to fine gives the same points as looking at every point of the finest grid."""
    monkeypatch.setattr(visual_hull, "CELLS_BUDGET", 30_000)
    views = ellipsoid_views(
        centers, (1.0, thin, 0.7), target=np.array([0.5, 0.0, 0.2])
    )  # cut off in some views
    carver, radius = Carver(views, np.zeros(3), 1.0), 2.0
    hull = carver.carve(radius)

    num = round(2 * radius / hull.spacing)
    axis = (np.arange(num) + 0.5) * hull.spacing - radius
    everywhere = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    everywhere = everywhere[np.linalg.norm(everywhere, axis=1) <= radius]
    seen, inside = carver.count_views(everywhere)
    agreed = (seen >= fewest_views(len(views))) & (inside >= needed_views(seen))
    expected = everywhere[agreed & (seen >= needed_views(seen[agreed].max()))]

    def as_set(points):
        return set(map(tuple, np.round((points + radius) / hull.spacing - 0.5).astype(int)))

    assert len(hull.points) > 50
    assert as_set(carver.from_world(hull.points)) == as_set(expected)
    assert hull.most_views == seen[agreed].max()


def test_a_thin_rod_is_found():
    """Twenty times thinner than the coarsest cell."""
    views = ellipsoid_views(sphere_centers(12), (1.0, 0.03, 0.03))
    hull = Carver(views, np.zeros(3), 1.0).carve(2.5)
    assert len(hull.points) > 100
    assert np.ptp(hull.points, axis=0)[0] == pytest.approx(2.0, abs=0.3)  # its tips are thinner than a pixel


def test_open_hull_is_reported():
    closed = Carver(ellipsoid_views(ring_centers(8)), np.zeros(3), 1.0).carve(2.5)
    narrow = Carver(ellipsoid_views(ring_centers(4, 8.0)), np.zeros(3), 1.0).carve(2.5)
    assert not closed.is_open
    assert narrow.is_open


def test_nearest_pixels_at_the_border():
    """Pixel 0 reaches from -0.5 to 0.5; points in the focal plane or behind are not seen."""
    projection = np.eye(3, 4)
    points = np.array(
        [[-0.49, 0, 1], [-0.51, 0, 1], [3.49, 1.49, 1], [3.51, 0, 1], [1, 1, -1], [1, 1, 0]], float
    )
    column, row, sees = nearest_pixels(points, projection, (2, 4))
    np.testing.assert_array_equal(sees, [True, False, True, False, False, False])
    np.testing.assert_array_equal(column[sees], [0, 3])
    np.testing.assert_array_equal(row[sees], [0, 1])
