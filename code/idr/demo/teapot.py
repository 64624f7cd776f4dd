"""The built-in scene's object, a teapot, as an analytic function whose zero set is its surface.

N points. numpy in float64, in the unit-sphere frame with z up, spout towards +x, handle towards -x.

The function is 1-Lipschitz (|sdf(x) - sdf(y)| <= |x - y|), so |sdf(x)| never exceeds the distance from x to
the surface: every primitive is a Euclidean distance, smooth unions combine gradients convexly, the fluting
has a known slope bound, and the result is divided by that bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BOUNDING_RADIUS = 0.85
"""Radius of a ball around the origin that contains the surface."""

GRADIENT_STEP = 1e-5
"""Half width of the central difference; truncation and rounding errors stay below 1e-6."""

NUM_FLUTES = 12
_FLUTE_DEPTH = 0.022  # ridge height over the distance from the axis
_FLUTE_HEIGHT = 0.34  # height above and below the belly's center where the flutes end
_FLUTE_REACH = 0.62  # distance from the axis beyond which ridges grow no further

# Slopes of depth * min(r, reach) * cos(n phi) * w(z): at most depth * n around the axis; in the meridian
# plane at most depth outwards and depth * reach * max|w'| upwards, where max|w'| of (1 - s^2)^2 with s = z /
# height is 8 / (3 sqrt(3)) / height. The belly's own gradient, of length 1, lies in that plane.
_AROUND = _FLUTE_DEPTH * NUM_FLUTES
_IN_PLANE = _FLUTE_DEPTH * np.hypot(1.0, _FLUTE_REACH * 8 / (3 * np.sqrt(3)) / _FLUTE_HEIGHT)
_SLOPE_BOUND = float(np.hypot(1.0 + _IN_PLANE, _AROUND))

BELLY_CENTER = -0.06
_BELLY_DISC, _BELLY_THICKNESS = 0.155, 0.385
LID_HEIGHT, LID_RING_RADIUS = 0.308, 0.25
NUM_BEADS = 20
_BEAD_RADIUS = 0.028

# Center line (x, z) of the spout, and its radii.
SPOUT_LINE = np.array([[0.36, -0.16], [0.53, -0.12], [0.62, 0.03], [0.66, 0.18], [0.745, 0.285]])
_SPOUT_RADII = np.array([0.165, 0.118, 0.083, 0.062, 0.064])
_SPOUT_BORE = 0.04
_SPOUT_JOINT = 0.03  # fillet between the spout's segments; each enlarges the union by at most a quarter of it
_SPOUT_FILLET = 0.06

# Bounding box of the spout, which consists of convex hulls of neighboring balls.
_SPOUT_SWELL = (len(SPOUT_LINE) - 2) * _SPOUT_JOINT / 4
_SPOUT_LOWER = (SPOUT_LINE - _SPOUT_RADII[:, None]).min(axis=0) - _SPOUT_SWELL
_SPOUT_UPPER = (SPOUT_LINE + _SPOUT_RADII[:, None]).max(axis=0) + _SPOUT_SWELL
_SPOUT_HALF_WIDTH = float(_SPOUT_RADII.max()) + _SPOUT_SWELL

HANDLE_CENTER = np.array([-0.515, 0.0, 0.0])
_HANDLE_STRETCH, _HANDLE_RADIUS, _HANDLE_TUBE = 0.06, 0.205, 0.056

_BLOCK = 1 << 15  # points evaluated at once, so that temporaries stay in the cache
_PROJECTION_STEPS = 8  # of Newton's method


def _norm(a: Array, b: Array) -> Array:
    """Length of (a, b); `np.hypot` takes eight times as long because it avoids overflow."""
    squared = a * a
    squared += b * b
    return np.sqrt(squared, out=squared)


def smooth_union(a: Array, b: Array, radius: float) -> Array:
    """Union of two distance functions with a fillet (polynomial smooth minimum).

    Its gradient is a convex combination of the two gradients, so the Lipschitz bound is kept. It equals the
    minimum where the values, (N,) each, differ by more than `radius`.
    """
    blend = a - b
    np.abs(blend, out=blend)
    np.subtract(radius, blend, out=blend)
    np.maximum(blend, 0.0, out=blend)
    blend *= blend
    blend *= 0.25 / radius
    return np.minimum(a, b) - blend


def _ring(r: Array, z: Array, radius: float, tube: float) -> Array:
    """Distance to a torus around the z axis."""
    return _norm(r - radius, z) - tube


def _flutes(x: Array, y: Array, r: Array, z: Array) -> Array:
    """Height of the belly's vertical ridges; see `_SLOPE_BOUND` for its slope."""
    cos1, sin1 = x / np.maximum(r, 1e-12), y / np.maximum(r, 1e-12)
    cos2, sin2 = cos1 * cos1 - sin1 * sin1, 2 * cos1 * sin1
    cos4 = cos2 * cos2 - sin2 * sin2
    cos12 = cos4 * (4 * cos4 * cos4 - 3)  # cos 3a = 4 cos^3 a - 3 cos a
    window = np.maximum(1 - np.square(z / _FLUTE_HEIGHT), 0.0)
    return _FLUTE_DEPTH * np.minimum(r, _FLUTE_REACH) * cos12 * window * window


def _beads(x: Array, y: Array, r: Array, z: Array) -> Array:
    """Distance to a ring of balls at multiples of an azimuthal spacing."""
    spacing = 2 * np.pi / NUM_BEADS
    nearest = spacing * np.round(np.arctan2(y, x) / spacing)
    along = x * np.cos(nearest) + y * np.sin(nearest)
    squared = np.maximum(r * r - along * along, 0.0) + np.square(along - LID_RING_RADIUS) + z * z
    return np.sqrt(squared) - _BEAD_RADIUS


def _round_cone(p: Array, q: Array, length: float, radii: Array) -> Array:
    """Distance to the convex hull of two balls of radii (2,), whose difference is below their `length`.

    p, (N,), is the coordinate along the axis, 0 at the first center and `length` at the second; q, (N,), is
    the distance from the axis.
    """
    sine = (radii[0] - radii[1]) / length
    cosine = np.sqrt(1 - sine * sine)
    along = np.clip(p - q * (sine / cosine), 0.0, length)  # foot of the cone's normal on the axis
    return _norm(p - along, q) - (radii[0] - sine * along)


def _spout(x: Array, y: Array, z: Array) -> Array:
    """A chain of round cones with a bore in its end."""
    outside = np.full_like(x, np.inf)
    for i in range(len(SPOUT_LINE) - 1):
        axis = SPOUT_LINE[i + 1] - SPOUT_LINE[i]
        length = float(np.linalg.norm(axis))
        axis = axis / length
        dx, dz = x - SPOUT_LINE[i, 0], z - SPOUT_LINE[i, 1]
        p = dx * axis[0] + dz * axis[1]
        q = _norm(dx * axis[1] - dz * axis[0], y)
        outside = smooth_union(outside, _round_cone(p, q, length, _SPOUT_RADII[i : i + 2]), _SPOUT_JOINT)
    # p, q are those of the last segment: the bore runs along its axis, from inside to beyond its end.
    bore = _norm(np.maximum(0.3 * length - p, 0.0), q) - _SPOUT_BORE
    flat = p - (length + 0.35 * _SPOUT_RADII[-1])  # cuts off the rounded end, for a flat rim
    return -smooth_union(-np.maximum(outside, flat), bore, 0.015)


def _handle(x: Array, y: Array, z: Array) -> Array:
    """A torus in the xz plane, stretched along z (a chain link)."""
    dx, dz = x - HANDLE_CENTER[0], z - HANDLE_CENTER[2]
    stretched = dz - np.clip(dz, -_HANDLE_STRETCH, _HANDLE_STRETCH)
    return _norm(_norm(dx, stretched) - _HANDLE_RADIUS, y) - _HANDLE_TUBE


def _body(x: Array, y: Array, r: Array, z: Array) -> Array:
    height = z - BELLY_CENTER
    disc = _norm(np.maximum(r - _BELLY_DISC, 0.0), height) - _BELLY_THICKNESS
    belly = disc - _flutes(x, y, r, height)
    return smooth_union(belly, _ring(r, z + 0.44, 0.26, 0.044), 0.05)


def _lid(x: Array, y: Array, r: Array, z: Array) -> Array:
    dome = _norm(r, z - 0.155) - 0.285
    knob = smooth_union(_norm(r, z - 0.515) - 0.066, _ring(r, z - 0.45, 0.0, 0.042), 0.03)
    lid = smooth_union(dome, knob, 0.035)
    # The torus contains all beads, which matter only where it is nearer than the lid.
    near = np.flatnonzero(_ring(r, z - LID_HEIGHT, LID_RING_RADIUS, _BEAD_RADIUS) < lid)
    lid[near] = np.minimum(lid[near], _beads(x[near], y[near], r[near], z[near] - LID_HEIGHT))
    return lid


def part_distances(points: Array) -> tuple[Array, Array, Array, Array]:
    """Distances to body, lid, spout and handle, (N,) each; the smallest identifies a point's part."""
    x, y, z = np.ascontiguousarray(points.T)
    r = _norm(x, y)
    return _body(x, y, r, z), _lid(x, y, r, z), _spout(x, y, z), _handle(x, y, z)


def _object(points: Array) -> Array:
    x, y, z = np.ascontiguousarray(points.T)
    r = _norm(x, y)
    body = _body(x, y, r, z)
    # The spout is expensive, and does not affect the union beyond its fillet.
    outside_x = np.maximum(np.maximum(_SPOUT_LOWER[0] - x, x - _SPOUT_UPPER[0]), 0.0)
    outside_z = np.maximum(np.maximum(_SPOUT_LOWER[1] - z, z - _SPOUT_UPPER[1]), 0.0)
    outside_y = np.maximum(np.abs(y) - _SPOUT_HALF_WIDTH, 0.0)
    to_box = _norm(_norm(outside_x, outside_z), outside_y)  # 0 inside it
    near = np.flatnonzero(to_box <= np.maximum(body + _SPOUT_FILLET, 0.0))
    spout = np.full_like(body, np.inf)
    spout[near] = _spout(x[near], y[near], z[near])
    joined = smooth_union(smooth_union(body, spout, _SPOUT_FILLET), _handle(x, y, z), 0.045)
    return smooth_union(joined, _lid(x, y, r, z), 0.012) / _SLOPE_BOUND


def in_blocks(function: Callable[[Array], Array], points: Array, block: int = _BLOCK) -> Array:
    """Evaluates a function, (n, ...) -> (n, ...), block by block, which bounds memory and is faster."""
    if len(points) <= block:
        return function(points)
    return np.concatenate([function(points[i : i + block]) for i in range(0, len(points), block)])


def sdf(points: Array) -> Array:
    """Implicit function of the object, (N, 3) -> (N,): negative inside, zero on the surface, 1-Lipschitz.

    It is at most the distance to the surface in magnitude, and about 0.91 of it near the surface.
    """
    return in_blocks(_object, np.asarray(points, dtype=np.float64))


def gradient(points: Array) -> Array:
    """Gradient of `sdf`, (N, 3) of length at most 1, by central differences, defined on creases too."""

    def differences(block: Array) -> Array:
        offsets = GRADIENT_STEP * np.concatenate((np.eye(3), -np.eye(3)))  # (6, 3)
        values = _object((block[:, None] + offsets).reshape(-1, 3)).reshape(-1, 2, 3)
        return (values[:, 0] - values[:, 1]) / (2 * GRADIENT_STEP)

    return in_blocks(differences, np.asarray(points, dtype=np.float64), _BLOCK // 6)


def normal(points: Array) -> Array:
    """Unit outward normals, (N, 3); zero where the gradient vanishes, which is never on the surface."""
    slope = gradient(points)
    return slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)


def project_to_surface(points: Array) -> Array:
    """Projects points, (N, 3), onto the surface by Newton's method, to |sdf| of 1e-12, or 1e-6 on creases.

    They must be closer to the surface than its smallest radius of curvature.
    """
    moved = np.array(points, dtype=np.float64)
    for _ in range(_PROJECTION_STEPS):
        slope = gradient(moved)
        square = np.maximum(np.einsum("ij,ij->i", slope, slope), 1e-6)
        moved -= (sdf(moved) / square)[:, None] * slope
    return moved
