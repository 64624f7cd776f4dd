"""Pages against a dense array; bounds and octants against formulas and random balls."""

from __future__ import annotations

import numpy as np
import pytest

from idr.fields.refinement import (
    CORNERS,
    MIN_SHARE,
    SAFETY,
    PagedValues,
    SlopeBounds,
    uncertain_octants,
)


def test_pages_contain_exactly_what_was_set():
    rng = np.random.default_rng(0)
    shape = (19, 8, 33)
    pages, dense = PagedValues(shape), np.full(shape, np.nan, dtype=np.float32)
    for _ in range(4):
        where = np.stack([rng.integers(0, count, 40) for count in shape], axis=1).astype(np.int32)
        where = np.unique(where, axis=0)
        values = rng.normal(size=len(where)).astype(np.float32)
        pages.set(where, values)
        dense[tuple(where.T)] = values
    everywhere = np.argwhere(np.ones(shape, dtype=bool)).astype(np.int32)
    np.testing.assert_array_equal(pages.get(everywhere).reshape(shape), dense)
    np.testing.assert_array_equal(pages.get(everywhere.reshape(*shape, 3)), dense)
    for start, size in (((0, 0, 0), shape), ((8, 0, 16), (11, 8, 9)), ((16, 0, 24), (3, 5, 9))):
        box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        np.testing.assert_array_equal(pages.box(np.array(start), np.array(size)), dense[box])


def values_of_cells(function, lowest, widths):
    """Values of a function at the corners of cells."""
    return function(lowest[:, None] + widths[:, None] * CORNERS).astype(np.float32)


def random_cells(count, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, 3)), rng.uniform(0.05, 0.2, (count, 3))


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_bound_of_a_linear_field_in_any_direction(slope):
    lowest, _ = random_cells(300, 0)
    directions = np.random.default_rng(1).normal(size=(300, 3))
    directions *= slope / np.linalg.norm(directions, axis=1, keepdims=True)
    for direction, cell in zip(directions, lowest, strict=True):
        bounds = SlopeBounds((1, 1, 1))
        values = values_of_cells(lambda x, d=direction: x @ d, cell[None], np.full((1, 3), 0.1))
        bounds.observe(np.zeros((1, 3), dtype=np.int32), values, np.full((1, 3), 0.1))
        assert bounds.settle().all()
        least, most = bounds.extremes
        assert least == most
        assert slope < most <= SAFETY * slope * (1 + 1e-4)  # above the true slope in any direction


def test_bounds_spread_to_neighbors_and_are_at_least_a_share_of_the_largest():
    bounds = SlopeBounds((5, 1, 1))
    for region, slope in ((0, 4.0), (4, 1.0)):
        values = (slope * CORNERS[:, 0] * 0.1).astype(np.float32)[None]
        bounds.observe(np.array([[region, 0, 0]], dtype=np.int32), values, np.full((1, 3), 0.1))
    assert bounds.settle().all()
    ones = np.ones((5, 8), dtype=np.float32)
    regions = np.array([[i, 0, 0] for i in range(5)], dtype=np.int32)
    found = 1 / bounds.radii(regions, ones)[:, 0]
    np.testing.assert_allclose(found, SAFETY * np.array([4, 4, 4 * MIN_SHARE, 2, 2]), rtol=1e-5)

    # A slope within the safety changes nothing; a larger one raises its region and the neighbors.
    def raised_by(slope):
        values = (slope * CORNERS[:, 1] * 0.1).astype(np.float32)[None]
        bounds.observe(np.array([[4, 0, 0]], dtype=np.int32), values, np.full((1, 3), 0.1))
        return bounds.settle().ravel().tolist()

    assert raised_by(2.4) == [False] * 5
    assert raised_by(3.0) == [False, False, False, True, True]
    assert bounds.extremes == pytest.approx((SAFETY * 2, SAFETY * 4))


def test_radii_of_zero_values_and_of_a_constant_field():
    bounds = SlopeBounds((1, 1, 1))
    assert not bounds.settle().any()
    values = np.array([[0, 1, -1, 0, 0, 0, 0, 2]], dtype=np.float32)
    radii = bounds.radii(np.zeros((1, 3), dtype=np.int32), values)
    assert radii[0].tolist() == [0, np.inf, np.inf, 0, 0, 0, 0, np.inf]


def test_octants_ruled_out_lie_within_one_ball():
    rng = np.random.default_rng(3)
    radii = rng.uniform(0, 2, (400, 8)).astype(np.float32) * rng.uniform(0, 1, (400, 1)).astype(np.float32)
    uncertain = uncertain_octants(radii, 1.0)
    assert 0.1 < uncertain.mean() < 0.95
    points = rng.uniform(0, 0.5, (8, 200, 3)) + 0.5 * CORNERS[:, None]  # (8, 200, 3), octant by octant
    distances = np.linalg.norm(points[:, :, None] - CORNERS, axis=3)  # (8, 200, 8)
    free = (distances[None] < radii[:, None, None]).any(axis=3).all(axis=2)  # (400, 8)
    assert free[~uncertain].all()
    # A ball around a corner rules out its own octant exactly if it reaches the center.
    for radius, certain in ((0.87, True), (0.86, False)):
        assert uncertain_octants(radius * np.eye(8, dtype=np.float32), 1.0).diagonal().all() != certain
