r"""Six made scenes with exact surfaces, each difficult in another way.

    python benchmarks/made_scenes.py --out data/suite
    python benchmarks/made_scenes.py --out data/suite --scenes vase house_plain

`vase` is concave, `relief` is carved under one color, `glossy` is smooth and specular, `wires` has sheets and
wires 1.5 to 6 pixels thick, `gaps` has many parts with gaps between them, `house` is cut by the image border
and seen from one side only. Each has a variant without texture, `NAME_plain`. A folder with the same settings
is kept.

Writes ``OUT/NAME/scan1`` (DATA_CONVENTION.md): 40 views of 320 x 240 pixels, `exact_surface.ply` in the world
and `made_scene.json`. The surface is the zero set of unions of signed distances, by marching cubes with
vertices moved onto it: vertices are within `MESH_ERROR`, 99.9 % of its area within 0.07 pixels, creases
within 0.25 pixels. Images are rendered from this mesh by Embree; normals at the vertices come from the signed
distance. All shapes are in the unit-sphere frame: N points, S curve samples, numpy float64.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import imageio.v3 as iio  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402
from numpy.typing import ArrayLike, NDArray  # noqa: E402
from scipy.interpolate import CubicSpline  # noqa: E402
from scipy.ndimage import map_coordinates  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402
from shared import run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.demo.cameras import (  # noqa: E402
    CAMERA_DISTANCE,
    UNIT_TO_WORLD,
    camera_intrinsics,
    look_at,
    view_poses,
    world_matrix,
)
from idr.demo.render import RenderedView, camera_rays, subpixel_offsets  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.export.mesh_files import import_mesh_package  # noqa: E402
from idr.files import whole_folder  # noqa: E402
from idr.meshing import (  # noqa: E402
    component_areas,
    extract_mesh,
    transform_mesh,
    uniform_grid,
    write_mesh,
)

Array = NDArray[np.float64]
Sdf = Callable[[Array], Array]
"""(N, 3) points -> (N,) signed distances, negative inside; a bound where parts are blended."""

SURFACE_FILE, SETTINGS_FILE = "exact_surface.ply", "made_scene.json"
GENERATOR, VERSION = "idr made scenes", 1
PLAIN = "_plain"
HOLDOUT_STRIDE = 8
"""Every eighth view is held out."""

MESH_ERROR = 1e-4
"""Largest signed distance of a mesh vertex: 0.015 pixels."""

PIXEL = CAMERA_DISTANCE / camera_intrinsics((240, 320))[0, 0]
"""Width of a pixel at the center of the unit sphere."""

FILLET = 0.012
"""Difference of two distances up to which their union is blended, so that the mesh has no sharp edges."""

_CURVE_STEP = 0.004
_GRADIENT_STEP = 2e-4
_NEWTON_STEPS = 3


# Shapes


def box(center: ArrayLike, half: ArrayLike, radius: float = 0.01, turn: Array | None = None) -> Sdf:
    """A box with rounded edges; the columns of `turn` are its axes."""
    center, inner = np.asarray(center, dtype=float), np.asarray(half, dtype=float) - radius
    axes = np.eye(3) if turn is None else turn

    def sdf(points: Array) -> Array:
        beyond = np.abs((points - center) @ axes) - inner
        outside = np.sqrt(np.square(np.maximum(beyond, 0)).sum(axis=1))
        return outside + np.minimum(beyond.max(axis=1), 0) - radius

    return sdf


def ball(center: ArrayLike, radius: float) -> Sdf:
    """A ball."""
    middle = np.asarray(center, dtype=float)
    return lambda points: np.sqrt(np.square(points - middle).sum(axis=1)) - radius


def ring(height: float, inner: float, outer: float, half: float, radius: float = 0.01) -> Sdf:
    """A flat ring around the z axis with rounded edges; a disc if `inner` is negative."""
    middle, width = ((inner + outer) / 2, (outer - inner) / 2) if inner >= 0 else (0.0, outer)

    def sdf(points: Array) -> Array:
        across = np.abs(np.hypot(points[:, 0], points[:, 1]) - middle) - (width - radius)
        along = np.abs(points[:, 2] - height) - (half - radius)
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        return outside + np.minimum(np.maximum(across, along), 0) - radius

    return sdf


def torus(center: ArrayLike, major: float, minor: float, turn: Array | None = None) -> Sdf:
    """A torus around the third column of `turn`, by default z."""
    axes, middle = np.eye(3) if turn is None else turn, np.asarray(center, dtype=float)

    def sdf(points: Array) -> Array:
        x, y, z = ((points - middle) @ axes).T
        return np.hypot(np.hypot(x, y) - major, z) - minor

    return sdf


def rod(start: ArrayLike, end: ArrayLike, radius: float) -> Sdf:
    """A straight rod with round ends."""
    start, along = np.asarray(start, dtype=float), np.subtract(end, start)

    def sdf(points: Array) -> Array:
        share = np.clip((points - start) @ along / (along @ along), 0, 1)
        return np.sqrt(np.square(points - start - share[:, None] * along).sum(axis=1)) - radius

    return sdf


def tube(curves: list[Array], radius: float) -> Sdf:
    """Tubes around polylines (S, 3): the distance to the two segments at the nearest sample."""
    dense = [_resample(np.asarray(curve, dtype=float)) for curve in curves]
    samples = np.concatenate(dense)
    ends = np.cumsum([len(curve) for curve in dense])
    before, after = np.arange(len(samples)) - 1, np.arange(len(samples)) + 1
    before[np.concatenate(([0], ends[:-1]))] += 1
    after[ends - 1] -= 1
    tree = cKDTree(samples)

    def sdf(points: Array) -> Array:
        nearest = tree.query(points)[1]
        offset, squared = points - samples[nearest], np.full(len(points), np.inf)
        for neighbor in (before, after):
            along = samples[neighbor[nearest]] - samples[nearest]
            length = np.maximum(np.square(along).sum(axis=1), 1e-30)
            share = np.clip((offset * along).sum(axis=1) / length, 0, 1)
            squared = np.minimum(squared, np.square(offset - share[:, None] * along).sum(axis=1))
        return np.sqrt(squared) - radius

    return sdf


def _resample(curve: Array) -> Array:
    """Samples of a polyline at most `_CURVE_STEP` apart, its corners included."""
    pieces = [
        np.linspace(start, end, max(int(np.ceil(np.linalg.norm(end - start) / _CURVE_STEP)), 1) + 1)[:-1]
        for start, end in zip(curve[:-1], curve[1:], strict=True)
    ]
    return np.concatenate([*pieces, curve[-1:]])


def shell(profile: ArrayLike, half: float, center: tuple[float, float] = (0.0, 0.0)) -> Sdf:
    """A wall of constant thickness around the vertical axis at `center`; profile: knots (radius, z)."""
    knots = np.asarray(profile, dtype=float)
    spline = CubicSpline(np.arange(len(knots)), knots)
    curve = spline(np.linspace(0, len(knots) - 1, 12 * len(knots)))
    wall = tube([np.column_stack((curve, np.zeros(len(curve))))], half)

    def sdf(points: Array) -> Array:
        radius = np.hypot(points[:, 0] - center[0], points[:, 1] - center[1])
        return wall(np.column_stack((radius, points[:, 2], np.zeros(len(points)))))

    return sdf


def _blend(a: Array, b: Array, width: float) -> Array:
    """Polynomial smooth minimum: at most width / 4 below the minimum, equal to it beyond `width`."""
    if not width:
        return np.minimum(a, b)
    return np.minimum(a, b) - np.square(np.maximum(width - np.abs(a - b), 0)) / (4 * width)


def union(*parts: Sdf, width: float = FILLET) -> Sdf:
    """The union of parts, blended where they meet."""

    def sdf(points: Array) -> Array:
        value = parts[0](points)
        for part in parts[1:]:
            value = _blend(value, part(points), width)
        return value

    return sdf


def cut(shape: Sdf, *tools: Sdf, width: float = FILLET) -> Sdf:
    """A shape without the tools, its new edges rounded."""

    def sdf(points: Array) -> Array:
        value = -shape(points)
        for tool in tools:
            value = _blend(value, tool(points), width)
        return -value

    return sdf


def common(*parts: Sdf) -> Sdf:
    """The intersection of parts, its edges rounded."""
    return cut(parts[0], *((lambda points, part=part: -part(points)) for part in parts[1:]))


def around(shape: Sdf, count: int) -> Sdf:
    """Copies of a shape around the z axis; the first one is symmetric about the half plane x > 0, y = 0."""

    def sdf(points: Array) -> Array:
        radius, angle = np.hypot(points[:, 0], points[:, 1]), np.arctan2(points[:, 1], points[:, 0])
        angle -= 2 * np.pi / count * np.rint(angle * count / (2 * np.pi))
        return shape(np.column_stack((radius * np.cos(angle), radius * np.sin(angle), points[:, 2])))

    return sdf


def beside(shape: Sdf, spacing: float, copies: int) -> Sdf:
    """A shape, symmetric about x = 0, and as many copies on either side along x."""

    def sdf(points: Array) -> Array:
        moved = points.copy()
        moved[:, 0] -= spacing * np.clip(np.rint(points[:, 0] / spacing), -copies, copies)
        return shape(moved)

    return sdf


def facing_front(shape: Sdf) -> Sdf:
    """A shape whose z axis becomes -y, toward the viewer, and whose y axis becomes z, upward."""
    return lambda points: shape(np.column_stack((points[:, 0], points[:, 2], -points[:, 1])))


def tilted(degrees: float, axis: int = 0) -> Array:
    """(3, 3) rotation about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    turn = np.eye(3)
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
    return turn


# Scenes


def vase() -> Sdf:
    """A vase with two handles and a bowl on a tray."""
    body = [(0.02, -0.42), (0.17, -0.40), (0.27, -0.2), (0.29, 0.03), (0.2, 0.24), (0.11, 0.38), (0.12, 0.5)]
    wall = shell([*body, (0.19, 0.58)], 0.022, (-0.2, 0.08))
    side = np.linspace(0, 1, 40)
    arc = CubicSpline(
        [0, 0.25, 0.5, 0.75, 1], [(0.12, 0.47), (0.28, 0.48), (0.385, 0.33), (0.38, 0.15), (0.285, 0.06)]
    )(side)
    handles = [
        np.column_stack((-0.2 + sign * 0.6 * arc[:, 0], 0.08 + sign * 0.8 * arc[:, 0], arc[:, 1]))
        for sign in (-1, 1)
    ]
    bowl = shell(
        [(0.01, -0.39), (0.09, -0.385), (0.18, -0.33), (0.235, -0.22), (0.25, -0.12)], 0.018, (0.33, -0.12)
    )
    return union(ring(-0.45, -1, 0.62, 0.025), wall, tube(handles, 0.026), bowl)


def relief() -> Sdf:
    """A medallion: raised letters, beads and grooves 2 to 4 pixels deep; a spiral and petals on the back."""
    top, angle = 0.09, np.linspace(0, 2 * np.pi, 200)
    half_turn = np.linspace(-np.pi / 2, np.pi / 2, 40)
    flat = lambda x, y, z=top: np.column_stack(np.broadcast_arrays(x, y, z))  # noqa: E731
    letters = [
        flat([-0.34, -0.34], [-0.14, 0.16]),
        flat([-0.2, -0.2], [-0.14, 0.16]),
        flat(-0.2 + 0.2 * np.cos(half_turn), 0.01 + 0.15 * np.sin(half_turn)),
        flat([0.14, 0.14], [-0.14, 0.16]),
        flat(0.2 + 0.1 * np.cos(half_turn), 0.085 + 0.075 * np.sin(half_turn)),
        flat([0.14, 0.2], [0.16, 0.16]),
        flat([0.14, 0.2, 0.3], [0.01, 0.01, -0.14]),
    ]
    x = np.linspace(-0.36, 0.36, 150)
    waves = [flat(x * s, y + 0.018 * np.cos(40 * x)) for y, s in ((-0.24, 1), (-0.3, 0.9), (-0.36, 0.75))]
    turns = np.linspace(0, 1, 1200)
    spiral_radius, spiral_angle = 0.3 + 0.26 * turns, 8 * np.pi * turns
    spiral = flat(spiral_radius * np.cos(spiral_angle), spiral_radius * np.sin(spiral_angle), -top)
    star = [
        flat([0.03 * np.cos(a), 0.09 * np.cos(a)], [0.31 + 0.03 * np.sin(a), 0.31 + 0.09 * np.sin(a)])
        for a in angle[:-1:25]
    ]
    raised = union(
        ring(0, -1, 0.7, top, 0.03),
        torus((0, 0, top - 0.005), 0.62, 0.03),
        around(ball((0.53, 0, top), 0.022), 56),
        tube(letters, 0.026),
        tube(star, 0.014),
        around(rod((0.09, 0, -top), (0.2, 0, -top), 0.03), 8),
        torus((0, 0, -top), 0.62, 0.022),
    )
    grooves = tube([*waves, spiral], 0.014)
    return facing_front(cut(raised, grooves, torus((0, 0, top), 0.46, 0.012)))


def glossy() -> Sdf:
    """A smooth sculpture with a hole."""
    return union(
        torus((0.05, 0, 0.02), 0.38, 0.15, tilted(70)),
        ball((-0.32, 0.0, -0.2), 0.27),
        ball((0.36, -0.05, 0.28), 0.2),
        rod((-0.3, 0.1, -0.35), (0.4, 0.15, -0.4), 0.12),
        rod((0.1, 0.02, 0.4), (-0.2, 0.1, 0.6), 0.07),
        width=0.2,
    )


def wires() -> Sdf:
    """A cage of wires, 1.5 to 6 pixels thick, with sheets 2 and 3 pixels thick."""
    bars = []
    for number, thickness in enumerate(2 * (1.5, 2, 3, 4, 5, 6)):
        a = 2 * np.pi * number / 12
        foot, head = (0.54 * np.cos(a), 0.54 * np.sin(a), -0.48), (0.3 * np.cos(a), 0.3 * np.sin(a), 0.5)
        bars.append(rod(foot, head, thickness * PIXEL / 2))
    share = np.linspace(0, 1, 600)
    radius, turn = 0.54 - 0.24 * share, 7 * np.pi * share
    helix = np.column_stack((radius * np.cos(turn), radius * np.sin(turn), -0.48 + 0.98 * share))
    wall = common(ring(-0.2, 0.27 - PIXEL, 0.27 + PIXEL, 0.27, 0.006), box((0, 0.5, -0.2), (0.5, 0.45, 0.5)))
    sheet = cut(
        box((0, 0, -0.15), (0.2, PIXEL, 0.32), 0.006), rod((0, -1, -0.1), (0, 1, -0.1), 0.1), width=0.006
    )
    flag = box((0.1, 0, 0.56), (0.1, PIXEL, 0.07), 0.006)
    return union(
        ring(-0.48, -1, 0.54, 1.5 * PIXEL),
        torus((0, 0, -0.48), 0.54, 3 * PIXEL),
        torus((0, 0, 0.5), 0.3, 2.5 * PIXEL),
        rod((-0.3, 0, 0.5), (0.3, 0, 0.5), 1.5 * PIXEL),
        rod((0, 0, 0.5), (0, 0, 0.68), 1.5 * PIXEL),
        *bars,
        tube([helix], PIXEL),
        wall,
        sheet,
        flag,
    )


def gaps() -> Sdf:
    """A round temple: columns, slats, teeth and stacked balls with gaps of 5 to 12 pixels."""
    column = union(
        rod((0.5, 0, -0.42), (0.5, 0, 0.3), 0.04),
        box((0.5, 0, -0.4), (0.055, 0.055, 0.03)),
        box((0.5, 0, 0.26), (0.055, 0.055, 0.025)),
    )
    slats = common(beside(box((0, 0, 0.42), (0.026, 0.6, 0.03)), 0.095, 6), ring(0.4, -1, 0.54, 0.2))
    balls = [ball((0, 0, -0.22 + 0.19 * k), 0.115 - 0.012 * k) for k in range(3)]
    return union(
        ring(-0.53, -1, 0.6, 0.035),
        around(box((0.6, 0, -0.53), (0.05, 0.045, 0.035)), 26),
        ring(-0.45, -1, 0.56, 0.05),
        around(column, 18),
        ring(0.33, 0.43, 0.58, 0.045),
        slats,
        around(box((0.5, 0, 0.42), (0.05, 0.03, 0.09)), 24),
        around(rod((0.26, 0, -0.42), (0.26, 0, 0.08), 0.022), 8),
        torus((0, 0, 0.08), 0.26, 0.026),
        ring(-0.37, -1, 0.14, 0.04),
        *balls,
    )


def house() -> Sdf:
    """A house with a gabled roof, overhang, chimney, dormer and window recesses; its front faces -y."""
    slope = np.degrees(np.arctan2(0.37, 0.36))
    front_roof, back_roof = (
        box((0, sign * 0.205, 0.241), (0.57, 0.3, 0.022), 0.008, tilted(-sign * slope)) for sign in (-1, 1)
    )
    # Walls end below the roof.
    below = [
        (lambda points, sign=sign: (np.array([0, sign * 0.37, 0.36]) / 0.5163 * points).sum(axis=1) - 0.305)
        for sign in (-1, 1)
    ]
    walls = common(box((0, 0, 0), (0.5, 0.36, 0.5), 0.008), *below)
    openings = [box((x, -0.36, z), (0.075, 0.06, 0.095), 0.006) for x in (-0.34, 0.34) for z in (-0.2,)]
    openings += [box((x, -0.36, -0.18), (0.055, 0.06, 0.075), 0.006) for x in (-0.16, 0.16)]
    openings += [box((0, -0.36, -0.32), (0.075, 0.07, 0.18), 0.006)]
    openings += [box((0.5, y, z), (0.06, 0.07, 0.09), 0.006) for y in (-0.18, 0.18) for z in (-0.2,)]
    openings += [box((0.5, 0, 0.12), (0.06, 0.06, 0.08), 0.006)]
    bars = [box((x, -0.325, -0.2), (0.008, 0.014, 0.1), 0.005) for x in (-0.34, 0.34)]
    bars += [box((x, -0.325, -0.2), (0.08, 0.014, 0.008), 0.005) for x in (-0.34, 0.34)]
    bars += [box((x, -0.38, -0.31), (0.095, 0.03, 0.014), 0.006) for x in (-0.34, 0.34)]
    dormer = cut(
        box((-0.2, -0.16, 0.2), (0.1, 0.16, 0.11), 0.008),
        box((-0.2, -0.32, 0.21), (0.055, 0.04, 0.06), 0.006),
    )
    dormer_roof = [
        box((-0.2 + sign * 0.06, -0.16, 0.345), (0.09, 0.19, 0.016), 0.006, tilted(sign * 38, axis=1))
        for sign in (-1, 1)
    ]
    chimney = cut(box((0.26, 0.08, 0.45), (0.065, 0.055, 0.22)), box((0.26, 0.08, 0.68), (0.04, 0.03, 0.06)))
    return union(
        cut(walls, *openings),
        front_roof,
        back_roof,
        dormer,
        *dormer_roof,
        chimney,
        box((0.26, 0.08, 0.62), (0.078, 0.068, 0.016), 0.006),
        *bars,
        box((0, -0.42, -0.5), (0.13, 0.1, 0.03)),
        box((0, 0, -0.54), (0.6, 0.46, 0.03)),
    )


@dataclass(frozen=True)
class Kind:
    """One of the six scenes.

    Attributes:
        shape: Makes its signed distance.
        color: (3,) color of the plain variant.
        ink: (3,) second color of the texture.
        texture: Contrast of the textured variant, 0 to 1.
        gloss: Strength of the highlights.
        spacing: Distance of the grid's samples for the mesh.
        one_sided: Cameras on one side and near, rather than all around.
    """

    shape: Callable[[], Sdf]
    color: tuple[float, float, float]
    ink: tuple[float, float, float]
    texture: float = 1.0
    gloss: float = 0.0
    spacing: float = 0.004
    one_sided: bool = False


KINDS = {
    "vase": Kind(vase, (0.72, 0.52, 0.40), (0.20, 0.30, 0.55)),
    "relief": Kind(relief, (0.70, 0.64, 0.52), (0.55, 0.50, 0.42), texture=0.35),
    "glossy": Kind(glossy, (0.48, 0.16, 0.14), (0.40, 0.20, 0.22), texture=0.35, gloss=0.45),
    "wires": Kind(wires, (0.55, 0.58, 0.62), (0.65, 0.25, 0.15), spacing=0.0028),
    "gaps": Kind(gaps, (0.74, 0.70, 0.62), (0.30, 0.42, 0.30)),
    "house": Kind(house, (0.75, 0.68, 0.58), (0.50, 0.20, 0.15), one_sided=True),
}
NAMES = tuple(name + end for name in KINDS for end in ("", PLAIN))


# Mesh


def gradient(sdf: Sdf, points: Array) -> Array:
    """Gradients (N, 3) from four samples at the corners of a tetrahedron."""
    corners = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)], dtype=float)
    values = np.stack([sdf(points + _GRADIENT_STEP * corner) for corner in corners], axis=1)
    return values @ corners / (4 * _GRADIENT_STEP)


def mesh_shape(sdf: Sdf, spacing: float) -> tuple[trimesh.Trimesh, Array]:
    """Meshes the zero set inside the unit sphere.

    Args:
        sdf: The signed distance.
        spacing: Distance of the grid's samples.

    Returns:
        The mesh with outward faces, its vertices moved onto the zero set, and their (V, 3) unit normals.
    """
    # The offset of the cube keeps samples off symmetry planes.
    half = 1.0 + 0.37 * spacing
    grid = uniform_grid(half, int(np.ceil(2 * half / spacing)) + 1)
    mesh = extract_mesh(
        lambda points: torch.from_numpy(sdf(points.double().numpy())).float(), grid, chunk_points=1 << 16
    )
    # Scores of a reconstruction are those of its largest component.
    assert mesh is not None and len(component_areas(mesh)) == 1
    vertices = np.array(mesh.vertices)
    for _ in range(_NEWTON_STEPS):
        slopes = _in_blocks(lambda points: gradient(sdf, points), vertices)
        step = _in_blocks(sdf, vertices)[:, None] * slopes
        step /= np.square(slopes).sum(axis=1, keepdims=True).clip(0.1)
        vertices -= np.clip(step, -spacing / 2, spacing / 2)
    normals = _in_blocks(lambda points: gradient(sdf, points), vertices)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return trimesh.Trimesh(vertices, mesh.faces, process=False), normals


def _in_blocks(function: Callable[[Array], Array], points: Array) -> Array:
    """Values at many points, in blocks that fit a cache."""
    return np.concatenate([function(block) for block in np.array_split(points, len(points) // 65536 + 1)])


# Images


def noise(points: Array, octaves: tuple[float, ...], seed: int) -> Array:
    """Value noise (N,), uniform in [0, 1]; `octaves` are cell sizes, each weighted by its root."""
    table = np.random.default_rng(seed).random((32, 32, 32))
    total = np.zeros(len(points))
    for number, cell in enumerate(octaves):
        cells = (points / cell + 7.3 * number).T % 32
        total += np.sqrt(cell / octaves[0]) * map_coordinates(table, cells, order=1, mode="grid-wrap")
    ranks = np.empty(len(total))
    ranks[np.argsort(total, kind="stable")] = np.linspace(0, 1, len(total))
    return ranks


def albedo(kind: Kind, textured: bool, points: Array) -> Array:
    """(N, 3) diffuse colors."""
    plain = np.broadcast_to(np.array(kind.color), points.shape)
    if not textured:
        return plain
    ink = np.clip(3 * noise(points, (0.2, 0.1, 0.05, 0.025), 1) - 1, 0, 1)[:, None]
    grain = 1 - 0.55 * kind.texture * noise(points, (0.06, 0.03, 0.016), 2)[:, None]
    return (plain + kind.texture * ink * (np.array(kind.ink) - plain)) * grain * (1 + 0.2 * kind.texture)


_LIGHTS = ((np.array([0.45, -0.6, 0.66]), 0.6), (np.array([-0.7, 0.3, -0.2]), 0.25))
"""Directions to the lights, and their strengths."""
_AMBIENT, _SHININESS = 0.45, 40.0


def shade(colors: Array, normals: Array, towards: Array, gloss: float) -> Array:
    """Diffuse colors under fixed lights and a constant ambient term, with Blinn-Phong highlights.

    Args:
        colors: (N, 3) albedo.
        normals: (N, 3) unit normals.
        towards: (N, 3) unit directions to the camera.
        gloss: Strength of the highlights.

    Returns:
        (N, 3) in [0, 1].
    """
    light, highlight = np.full(len(colors), _AMBIENT), np.zeros(len(colors))
    for direction, strength in _LIGHTS:
        unit = direction / np.linalg.norm(direction)
        light += strength * np.maximum(normals @ unit, 0)
        if gloss:
            middle = towards + unit
            middle /= np.linalg.norm(middle, axis=1, keepdims=True).clip(1e-9)
            facing = np.maximum((normals * middle).sum(axis=1), 0) * (normals @ unit > 0)
            highlight += gloss * strength * 2 * facing**_SHININESS
    return np.clip(colors * light[:, None] + highlight[:, None], 0, 1)


class Renderer:
    """Images of a mesh with colors and normals at its vertices."""

    def __init__(self, mesh: trimesh.Trimesh, normals: Array, colors: Array, gloss: float) -> None:
        """Builds the ray intersector.

        Raises:
            MissingInputError: ``embreex`` is not installed.
        """
        import_mesh_package("embreex", "rendering of made scenes")
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        self._rays = RayMeshIntersector(mesh)
        self._corners, self._faces = np.asarray(mesh.triangles), np.asarray(mesh.faces)
        self._normals, self._colors, self._gloss = normals, colors, gloss

    def render(self, intrinsics: Array, pose: Array, img_res: tuple[int, int], side: int) -> RenderedView:
        """Renders a view; each pixel is the mean of `side` x `side` samples, white where they miss."""
        height, width = img_res
        offsets = subpixel_offsets(side)
        rows, columns = np.divmod(np.arange(height * width), width)
        uv = np.column_stack((columns, rows))[:, None] + offsets  # (H*W, S, 2)
        origin, directions = camera_rays(intrinsics, pose, uv.reshape(-1, 2))
        faces = self._rays.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        rgb, hit = np.ones_like(directions), faces >= 0
        rgb[hit] = self._color(origin, directions[hit], faces[hit])
        shape = (height, width, len(offsets))
        return RenderedView(rgb.reshape(*shape, 3).mean(axis=2), hit.reshape(shape).mean(axis=2))

    def _color(self, origin: Array, directions: Array, faces: NDArray[np.integer]) -> Array:
        """(R, 3) colors where rays meet triangles, by barycentric interpolation."""
        a, b, c = self._corners[faces].transpose(1, 0, 2)
        ab, ac = b - a, c - a
        # Moeller and Trumbore: the weights of the second and third corners.
        p = np.cross(directions, ac)
        determinant = (ab * p).sum(axis=1)
        determinant = np.where(np.abs(determinant) < 1e-18, 1e-18, determinant)
        to_origin = origin - a
        second = (to_origin * p).sum(axis=1) / determinant
        third = (directions * np.cross(to_origin, ab)).sum(axis=1) / determinant
        weights = np.clip(np.column_stack((1 - second - third, second, third)), 0, 1)
        weights /= weights.sum(axis=1, keepdims=True)
        corners = self._faces[faces]
        normals = np.einsum("rk,rkd->rd", weights, self._normals[corners])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
        colors = np.einsum("rk,rkd->rd", weights, self._colors[corners])
        return shade(colors, normals, -directions, self._gloss)


def one_sided_poses(num_views: int, generator: np.random.Generator) -> Array:
    """(B, 4, 4) poses in front of the house: within 35 degrees of an axis, near enough to cut its image."""
    axis, distance, widest = np.array([0.5, -0.8, 0.28]), 2.0, np.cos(np.radians(35))
    forward = axis / np.linalg.norm(axis)
    across = np.cross(forward, (0, 0, 1)) / np.linalg.norm(np.cross(forward, (0, 0, 1)))
    poses = []
    for i in range(num_views):
        cosine = 1 - (1 - widest) * (i + 0.5) / num_views
        sine, angle = np.sqrt(1 - cosine**2), np.pi * (3 - np.sqrt(5)) * i
        sideways = np.cos(angle) * across + np.sin(angle) * np.cross(across, forward)
        target = generator.uniform((-0.15, -0.1, -0.1), (0.15, 0.1, 0.1))
        reach = distance * (1 + 0.05 * generator.uniform(-1, 1))
        poses.append(look_at(reach * (cosine * forward + sine * sideways), target, np.radians(3), 1.0))
    return np.stack(poses)


# Folder


@dataclass(frozen=True)
class Settings:
    """Sizes of the images and of the scene.

    Attributes:
        img_res: Height and width.
        num_views: Number of views, held-out ones included.
        side: Samples along a pixel's side.
    """

    img_res: tuple[int, int] = (240, 320)
    num_views: int = 40
    side: int = 3


def split_name(name: str) -> tuple[Kind, bool]:
    """The kind of a scene and whether it is textured; raises `InputError` for an unknown name."""
    if name not in NAMES:
        raise InputError(f"made scene {name}: expected one of {', '.join(NAMES)}")
    return KINDS[name.removesuffix(PLAIN)], not name.endswith(PLAIN)


def describe(name: str, settings: Settings) -> dict[str, Any]:
    """The record in the scene's folder; the same record means the same files."""
    return {
        "generator": GENERATOR,
        "version": VERSION,
        "name": name,
        "img_res": list(settings.img_res),
        "num_views": settings.num_views,
        "samples_per_pixel": settings.side**2,
        "unit_to_world": UNIT_TO_WORLD.tolist(),
        "mesh_error": MESH_ERROR,
    }


def is_written(name: str, folder: Path, settings: Settings) -> bool:
    """Whether the folder holds this scene; raises `InputError` if it holds anything else."""
    if not folder.exists():
        return False
    record = folder / SETTINGS_FILE
    if not record.is_file() or json.loads(record.read_text()) != describe(name, settings):
        raise InputError(f"{folder} exists with other content; choose another folder or move it away")
    return True


def write(names: list[str], out: Path, settings: Settings) -> None:
    """Writes the scenes that are missing to ``out/NAME/scan1``; each folder completely or not at all.

    Raises:
        InputError: A name is unknown, or a folder holds something else.
        MissingInputError: ``embreex`` is not installed.
    """
    folders = {name: out / name / "scan1" for name in names}
    missing = [name for name in names if split_name(name) and not is_written(name, folders[name], settings)]
    meshes: dict[str, tuple[trimesh.Trimesh, Array]] = {}
    for name in missing:
        kind, textured = split_name(name)
        shape = name.removesuffix(PLAIN)
        if shape not in meshes:
            meshes = {shape: mesh_shape(kind.shape(), kind.spacing)}  # one at a time
        mesh, normals = meshes[shape]
        colors = albedo(kind, textured, np.asarray(mesh.vertices))
        renderer = Renderer(mesh, normals, colors, kind.gloss)
        with whole_folder(folders[name]) as unfinished:
            _write_files(unfinished, kind, renderer, settings)
            write_mesh(transform_mesh(mesh, UNIT_TO_WORLD), unfinished / SURFACE_FILE)
            (unfinished / SETTINGS_FILE).write_text(json.dumps(describe(name, settings), indent=2) + "\n")
        say(f"wrote {folders[name]}")


def _write_files(folder: Path, kind: Kind, renderer: Renderer, settings: Settings) -> None:
    place = one_sided_poses if kind.one_sided else view_poses
    poses = place(settings.num_views, np.random.default_rng(0))
    intrinsics = camera_intrinsics(settings.img_res)
    matrices: dict[str, Array] = {}
    for part in ("image", "mask"):
        (folder / part).mkdir()
    for i, pose in enumerate(poses):
        view = renderer.render(intrinsics, pose, settings.img_res, settings.side)
        iio.imwrite(folder / "image" / f"{i:03d}.png", np.rint(255 * view.rgb).astype(np.uint8))
        iio.imwrite(folder / "mask" / f"{i:03d}.png", view.mask)
        matrices |= {f"world_mat_{i}": world_matrix(intrinsics, pose), f"scale_mat_{i}": UNIT_TO_WORLD}
    np.savez(folder / "cameras.npz", allow_pickle=False, **matrices)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the scenes."""
    names = list(arguments.scenes or NAMES)
    write(names, Path(arguments.out), Settings(tuple(arguments.img_res), arguments.views))
    return {"scenes": names}


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser("Writes scenes with exact surfaces, each difficult in another way.")
    parser.add_argument("--out", required=True, help="folder of data sets, one a scene")
    parser.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="default: all, with variants")
    parser.add_argument("--img_res", type=int, nargs=2, default=[240, 320], help="height and width")
    parser.add_argument("--views", type=int, default=40, help="number of views")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, lambda result: None))
