"""The built-in scene's colors: albedo, fixed lights and highlights, in numpy.

N points, in the unit-sphere frame (z up). Colors are RGB in [0, 1] as in the image, without gamma.
"""

from __future__ import annotations

import numpy as np

from idr.demo import teapot
from idr.demo.teapot import Array, part_distances, sdf

_TEAL_DARK, _TEAL_LIGHT = np.array([0.31, 0.59, 0.64]), np.array([0.42, 0.74, 0.72])
_CREAM, _CORAL = np.array([0.93, 0.86, 0.70]), np.array([0.89, 0.53, 0.43])
_GOLD = np.array([0.88, 0.71, 0.40])

_BELT_HALF_HEIGHT = 0.095
_PART_EDGE = 0.012  # width over which colors of two parts blend

# Direction towards each light, its diffuse and its specular strength.
_LIGHTS = (
    (np.array([0.45, -0.60, 0.66]), 0.40, 0.26),
    (np.array([-0.70, 0.45, 0.30]), 0.20, 0.12),
    (np.array([0.15, 0.50, -0.85]), 0.20, 0.08),
)
_SKY, _GROUND = np.array([0.64, 0.66, 0.68]), np.array([0.60, 0.57, 0.55])
_SHININESS = 14.0
_TYPICAL_SLOPE = 0.91  # of the sdf along normals
_OCCLUSION_STEPS = (0.05, 0.12, 0.24)
_OCCLUSION_STRENGTH = 0.5


def _smoothstep(value: Array, low: float, high: float) -> Array:
    s = np.clip((value - low) / (high - low), 0.0, 1.0)
    return s * s * (3 - 2 * s)


def _mix(a: Array, b: Array, weight: Array) -> Array:
    """Interpolates from a (weight 0) to b (weight 1); colors (3,) or (N, 3), weight (N,)."""
    return a + (b - a) * weight[:, None]


def _band(value: Array, half_width: float, edge: float) -> Array:
    """1 within +-half_width of zero, 0 outside, with soft edges."""
    return _smoothstep(half_width - np.abs(value), -edge, edge)


def _body_color(azimuth: Array, r: Array, z: Array) -> Array:
    height = z - teapot.BELLY_CENTER
    glaze = _mix(_TEAL_DARK, _TEAL_LIGHT, _smoothstep(height, -0.36, 0.32))
    ridge = 0.5 + 0.5 * np.cos(teapot.NUM_FLUTES * azimuth)
    glaze = _mix(glaze, glaze * 0.86, (1 - ridge) * _smoothstep(r, 0.1, 0.3))
    # The belt: cream, with a coral diamond on every other flute, and gold edges.
    color = _mix(glaze, _CREAM, _band(height, _BELT_HALF_HEIGHT, 0.016))
    cell = np.mod(azimuth * (teapot.NUM_FLUTES / 2) / (2 * np.pi) + 0.5, 1.0) - 0.5
    taxi = np.abs(cell) / 0.36 + np.abs(height) / 0.078
    color = _mix(color, _CORAL, _smoothstep(1 - taxi, -0.12, 0.12))
    return _mix(color, _GOLD, _band(np.abs(height) - _BELT_HALF_HEIGHT - 0.012, 0.015, 0.008))


def _lid_color(azimuth: Array, r: Array, z: Array) -> Array:
    petals = 0.5 + 0.5 * np.cos(teapot.NUM_FLUTES / 2 * azimuth)
    edge = 0.10 + 0.075 * petals
    color = _mix(_CORAL, _CREAM, _smoothstep(edge - r, -0.012, 0.012))
    color = _mix(color, _CORAL, _smoothstep(edge - 0.05 - r, -0.012, 0.012))
    color = _mix(color, _GOLD, _smoothstep(z, 0.44, 0.455))
    bead = np.hypot(r - teapot.LID_RING_RADIUS, z - teapot.LID_HEIGHT)
    return _mix(color, _GOLD, _smoothstep(0.036 - bead, -0.008, 0.008))


def _spout_color(x: Array, z: Array) -> Array:
    tip = teapot.SPOUT_LINE[-1]
    to_tip = np.hypot(x - tip[0], z - tip[1])
    color = _mix(_TEAL_LIGHT, _TEAL_DARK, _smoothstep(to_tip, 0.12, 0.50))
    rings = _band(np.mod(to_tip + 0.05, 0.10) - 0.05, 0.017, 0.008) * _band(to_tip - 0.25, 0.10, 0.004)
    color = _mix(color, _CREAM, rings)
    return _mix(color, _GOLD, _smoothstep(0.075 - to_tip, -0.008, 0.008))


def _handle_color(x: Array, z: Array) -> Array:
    turn = np.arctan2(z - teapot.HANDLE_CENTER[2], -(x - teapot.HANDLE_CENTER[0]))
    stripes = 0.5 + 0.5 * np.cos(10 * turn)
    return _mix(_CORAL, _CORAL * 0.78, _smoothstep(stripes, 0.55, 0.8))


def albedo(points: Array) -> Array:
    """Albedo of the glaze, (N, 3), at (N, 3) points on or near the surface."""
    x, y, z = points.T
    r, azimuth = np.hypot(x, y), np.arctan2(y, x)
    body, lid, spout, handle = part_distances(points)
    color, nearest = _body_color(azimuth, r, z), body
    for distance, part_color, edge in (
        (spout, _spout_color(x, z), _PART_EDGE),
        (handle, _handle_color(x, z), _PART_EDGE),
        (lid, _lid_color(azimuth, r, z), _PART_EDGE / 2),
    ):
        color = _mix(color, part_color, _smoothstep(nearest - distance, -edge, edge))
        nearest = np.minimum(nearest, distance)
    foot = _smoothstep(-0.41 - z, -0.008, 0.008)
    return np.clip(_mix(color, _GOLD, foot), 0.0, 1.0)


def ambient_occlusion(points: Array, normals: Array) -> Array:
    """(N,) from 0 (occluded) to 1 (free), from the sdf at a few distances along the unit outward normals."""
    closed = np.zeros(len(points))
    for weight, step in zip((0.5, 0.3, 0.2), _OCCLUSION_STEPS, strict=True):
        free = np.clip(sdf(points + step * normals) / (_TYPICAL_SLOPE * step), 0.0, 1.0)
        closed += weight * (1 - free)
    return 1 - _OCCLUSION_STRENGTH * closed


def shade(points: Array, normals: Array, views: Array) -> Array:
    """Observed color, (N, 3): diffuse glaze under fixed lights, with view-dependent Blinn-Phong highlights.

    Normals are outward; views point from the surface to the camera. Both are (N, 3) unit vectors.
    """
    openness = ambient_occlusion(points, normals)[:, None]
    up = 0.5 + 0.5 * normals[:, 2]
    light = _mix(_GROUND, _SKY, up) * openness  # (N, 3)
    highlight = np.zeros(len(points))
    for direction, strength, gloss in _LIGHTS:
        towards = direction / np.linalg.norm(direction)
        facing = np.maximum(normals @ towards, 0.0)
        light = light + (strength * facing)[:, None] * (0.4 + 0.6 * openness)
        half = views + towards
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-9)
        cosine = np.maximum(np.einsum("ij,ij->i", normals, half), 0.0)
        highlight += gloss * cosine**_SHININESS * _smoothstep(facing, 0.0, 0.15)
    return np.clip(albedo(points) * light + highlight[:, None], 0.0, 1.0)
