"""Analytic fields and meshes to compare."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from scipy.spatial import cKDTree

from idr.meshing import aligned_grid, component_areas


def sphere(radius, center=(0.0, 0.0, 0.0)):
    return lambda x: (x - torch.tensor(center)).norm(dim=1) - radius


def torus(ring, tube, factor=1.0):
    return lambda x: factor * (torch.hypot(torch.hypot(x[:, 0], x[:, 1]) - ring, x[:, 2]) - tube)


def union(*fields):
    return lambda x: torch.stack([field(x) for field in fields]).amin(dim=0)


def sheet(half_thickness):
    """A square plate."""
    half = torch.tensor([0.5, 0.6, half_thickness])

    def field(x):
        q = x.abs() - half
        return q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0)

    return field


def wiggly(x):
    """A ball whose surface ripples: slopes from 0.4 to 1.6."""
    ripples = torch.sin(18 * x[:, 0]) * torch.sin(18 * x[:, 1]) * torch.sin(18 * x[:, 2])
    return x.norm(dim=1) - 0.6 + 0.03 * ripples


def steep_at_surface(x):
    """A ball of slope 4 within a thin shell around its surface, 1 elsewhere: coarse cells hide it."""
    distance = x.norm(dim=1) - 0.6
    return distance + 3 * distance.clamp(-0.012, 0.012)


def balls(x):
    """125 balls in a row and column, far smaller than a coarse cell's diagonal."""
    offset = x / 0.33
    return 0.33 * (offset - offset.round().clamp(-2, 2)).norm(dim=1) - 0.06


def turn(seed):
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes * np.sign(np.linalg.det(axes))


def skew_grid(resolution, half=1.0):
    """A grid that is turned, off center and has three different sides."""
    sides = half * np.array([1.0, 1.13, 1.37])
    return aligned_grid(turn(3), np.array([0.05, -0.02, 0.03]), -sides, sides, resolution)


class Counted:
    """A field that counts how often each point is evaluated."""

    def __init__(self, field):
        self.field, self.calls, self.points = field, [], Counter()

    def __call__(self, x):
        self.calls.append(len(x))
        self.points.update(map(tuple, x.tolist()))
        return self.field(x)


def assert_same_mesh(found, expected, tolerance=1e-5):
    """Same vertices within the tolerance, as many faces, the same pieces, closed where the other is."""
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert len(found.vertices) == len(expected.vertices)
    assert len(found.faces) == len(expected.faces)
    for one, other in ((found, expected), (expected, found)):
        assert cKDTree(one.vertices).query(other.vertices)[0].max() <= tolerance
    np.testing.assert_allclose(component_areas(found), component_areas(expected), rtol=1e-4, atol=1e-9)
    assert found.is_watertight == expected.is_watertight
    assert found.is_winding_consistent == expected.is_winding_consistent
    # Faces join the same vertices: their centers are the same too.
    assert cKDTree(found.triangles_center).query(expected.triangles_center)[0].max() <= tolerance
