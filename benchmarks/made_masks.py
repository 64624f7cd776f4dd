r"""Overlap of masks made from photographs and cameras with the true masks, on rendered photographs.

    python benchmarks/made_masks.py
    python benchmarks/made_masks.py --objects beast --grounds plain dark --starts points --pictures masks/

Three objects (a teapot, an animal with gaps between its legs and a thin tail, a matt vehicle) stand on seven
grounds: `plain` cloth with soft wrinkles; `similar`, cloth in the object's mean color; `striped`; `textured`;
`dark`, a dark object on dark cloth; `backdrop`, a plain screen that turns with the camera; `plate`, a blue
disc in front of such a screen, as on a turntable, with its edge inside the photographs. Light falls off
across the ground, the object casts a soft shadow, and photographs have vignetting and noise. Cameras are
exact.

`--starts`: `cameras` gives `make_masks` nothing but photographs and cameras; `scene` adds sparse points as
structure from motion finds them, on the object and on textured grounds; `points` adds points on the object.

Prints a table of IoUs. `--pictures` writes the two worst views of each case with the mask's outline.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import trimesh  # noqa: E402
from made_scenes import Sdf, ball, box, mesh_shape, rod, torus, tube, union  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.ndimage import gaussian_filter, map_coordinates  # noqa: E402
from shared import run_benchmark  # noqa: E402

from idr.cli.shared.common import make_parser, say  # noqa: E402
from idr.demo import teapot  # noqa: E402
from idr.demo.appearance import albedo as glaze  # noqa: E402
from idr.demo.cameras import look_at  # noqa: E402
from idr.demo.photo_render import Room  # noqa: E402
from idr.demo.render import camera_rays, pixel_centers  # noqa: E402
from idr.errors import InputError  # noqa: E402
from idr.importers.masks.automatic import make_masks  # noqa: E402

Array = NDArray[np.float64]
GROUNDS = ("plain", "similar", "striped", "textured", "dark", "backdrop", "plate")
STARTS = ("cameras", "scene", "points")
RINGS = ((16.0, 0.4), (36.0, 0.35), (55.0, 0.25))
"""Elevations of the cameras in degrees, and shares of the views."""
DISTANCE, FOCAL = 3.1, 1.35
"""Of the cameras from the object, whose radius is about 0.7; over the image's shorter side."""
GROUND_RADIUS, PLATE_RADIUS = 2.6, 1.1
"""Of the disc of ground in front of a blurred room, and of the plate."""
NOISE, VIGNETTING, DARKENING = 0.012, 0.25, 0.16
"""Standard deviation of pixels, loss of light in the corners, and albedo of dark objects over the others."""
LIGHTS = np.array(
    [[0.5, -0.5, 0.75], [0.35, -0.6, 0.8], [0.6, -0.35, 0.8], [0.4, -0.3, 0.9], [-0.5, 0.4, 0.8]]
)
"""Directions to point lights; several close ones make a soft shadow."""
SPACING = 0.012
"""Of the grid that objects are meshed on."""


# Objects


def beast() -> Sdf:
    """A long-necked animal on four legs with a thin curved tail."""
    legs = [
        rod((x, y, -0.12), (x * 1.15, y * 1.35, -0.5), 0.065) for x in (-0.22, 0.24) for y in (-0.13, 0.13)
    ]
    body = rod((-0.24, 0, 0.0), (0.25, 0, 0.03), 0.19)
    neck, head = rod((0.33, 0, 0.08), (0.5, 0, 0.45), 0.075), rod((0.5, 0, 0.47), (0.64, 0, 0.43), 0.075)
    bend = np.linspace(0, 1, 30)
    tail = np.column_stack((-0.35 - 0.45 * bend, 0.2 * bend**2, 0.02 + 0.12 * np.sin(4 * bend)))
    return union(body, neck, head, *legs, tube([tail], 0.035), width=0.08)


def vehicle() -> Sdf:
    """A car with four wheels, a cabin and an aerial."""
    wheels = [
        torus((x, y, -0.37), 0.08, 0.05, np.array([[1, 0, 0], [0, 0, 1], [0, -1.0, 0]]))
        for x in (-0.3, 0.3)
        for y in (-0.24, 0.24)
    ]
    hubs = [rod((x, -0.24, -0.37), (x, 0.24, -0.37), 0.05) for x in (-0.3, 0.3)]
    cabin = box((-0.05, 0, 0.02), (0.26, 0.19, 0.16), 0.06)
    body, lamp = box((0, 0, -0.23), (0.55, 0.24, 0.13), 0.05), ball((0.5, 0.0, -0.12), 0.07)
    return union(body, cabin, lamp, *wheels, *hubs, rod((-0.2, 0.1, 0.15), (-0.35, 0.1, 0.42), 0.02))


def patches(points: Array, first: tuple[float, ...], second: tuple[float, ...]) -> Array:
    """Two colors in smooth patches."""
    table = gaussian_filter(np.random.default_rng(5).standard_normal((24,) * 3), 1.0, mode="wrap")
    share = map_coordinates(table / table.std(), points.T / 0.06 % 24, order=1, mode="grid-wrap")
    weight = 1 / (1 + np.exp(-4 * share))[:, None]
    return (1 - weight) * np.array(first) + weight * np.array(second)


OBJECTS: dict[str, tuple[Callable[[], Sdf], Callable[[Array], Array]]] = {
    "teapot": (lambda: teapot.sdf, glaze),
    "beast": (beast, lambda points: patches(points, (0.62, 0.50, 0.22), (0.30, 0.40, 0.16))),
    "vehicle": (vehicle, lambda points: patches(points, (0.50, 0.16, 0.12), (0.42, 0.24, 0.16))),
}
"""Signed distance and albedo."""


# Photographs


@dataclass(frozen=True)
class Photographs:
    """Photographs of one case with exact cameras and masks.

    Attributes:
        images: B arrays (H, W, 3) of bytes.
        masks: B arrays (H, W) of bool.
        projections: (B, 3, 4) world to pixels.
        on_object: (N, 3) sparse points, noisy, of the object.
        in_scene: (M, 3) sparse points of object and textured ground, some of them wrong.
    """

    images: list[NDArray[np.uint8]]
    masks: list[NDArray[np.bool_]]
    projections: Array
    on_object: Array
    in_scene: Array


class Stage:
    """An object that casts a shadow on a ground."""

    def __init__(self, name: str, ground: str) -> None:
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        shape, color = OBJECTS[name]
        self.mesh, self.normals = mesh_shape(shape(), SPACING)
        vertices = np.asarray(self.mesh.vertices)
        self.ground, self.height = ground, float(vertices[:, 2].min())
        self.colors = color(vertices) * (DARKENING if ground == "dark" else 1.0)
        self.rays = RayMeshIntersector(self.mesh)
        self.room = Room(np.random.default_rng(1))
        wrinkles = gaussian_filter(np.random.default_rng(2).standard_normal((256, 256)), 7, mode="wrap")
        self.wrinkles = wrinkles / wrinkles.std()

    def shadow(self, points: Array) -> Array:
        """(N,) share of the light that reaches points on the ground."""
        near = np.flatnonzero(np.linalg.norm(points[:, :2], axis=1) < 1.6)
        light = np.ones(len(points))
        for direction in LIGHTS:
            start = points[near] + 1e-3 * direction
            blocked = self.rays.intersects_any(start, np.broadcast_to(direction, start.shape))
            light[near] -= 0.6 / len(LIGHTS) * blocked
        return light

    def ground_color(self, points: Array) -> Array:
        """(N, 3) albedo of points on the ground."""
        wrinkles = map_coordinates(self.wrinkles, points[:, :2].T / 0.03 % 256, order=1, mode="grid-wrap")
        fold = (1 + 0.03 * wrinkles)[:, None]
        if self.ground == "textured":
            texels = (points[:, :2] / 5.0 + 0.5).T * (len(self.room.table) - 1)
            channels = np.moveaxis(self.room.table, 2, 0)
            return np.stack([map_coordinates(c, texels, order=1, mode="nearest") for c in channels], 1)
        if self.ground == "striped":
            light = np.sin(2 * np.pi * points[:, 0] / 0.3)[:, None] > 0
            return np.where(light, (0.75, 0.72, 0.66), (0.16, 0.22, 0.34)) * fold
        if self.ground == "similar":
            return self.colors.mean(axis=0) * np.array([1.0, 1.1, 1.15]) * fold
        return np.array((0.035, 0.035, 0.04) if self.ground == "dark" else (0.16, 0.30, 0.62)) * fold

    def surroundings(self, origin: Array, directions: Array, uv: Array) -> Array:
        """(R, 3) colors of rays that miss the object; `uv` in [-1, 1] are their places in the image."""
        screen = np.array((0.42, 0.46, 0.40)) * (1 - 0.15 * uv[:, 1:] + 0.1 * uv[:, :1])
        if self.ground == "backdrop":
            return screen
        if self.ground == "plate":
            colors, radius = screen, PLATE_RADIUS
        else:
            colors, radius = self.room._wall_color(directions), GROUND_RADIUS
            colors *= 0.2 if self.ground == "dark" else 1.0
        depth = (self.height - origin[2]) / np.minimum(directions[:, 2], -1e-6)
        points = origin + depth[:, None] * directions
        on_ground = (directions[:, 2] < 0) & (np.linalg.norm(points[:, :2], axis=1) < radius)
        points = points[on_ground]
        falloff = 1.05 - 0.12 * points[:, :1] - 0.05 * np.square(points[:, :2]).sum(axis=1, keepdims=True)
        colors[on_ground] = self.ground_color(points) * falloff * self.shadow(points)[:, None]
        return colors

    def object_color(self, origin: Array, directions: Array, faces: NDArray[np.integer]) -> Array:
        """(R, 3) colors where rays meet the object: diffuse light, and weak highlights."""
        corners = np.asarray(self.mesh.faces)[faces]
        triangles = np.asarray(self.mesh.triangles)[faces]
        across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        depth = ((triangles[:, 0] - origin) * across).sum(1) / (directions * across).sum(1)
        points = origin + depth[:, None] * directions
        weights = trimesh.triangles.points_to_barycentric(triangles, points).clip(0, 1)
        normals = np.einsum("rk,rkd->rd", weights, self.normals[corners])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        colors = np.einsum("rk,rkd->rd", weights, self.colors[corners])
        sun = LIGHTS[0] / np.linalg.norm(LIGHTS[0])
        light = 0.42 + 0.22 * normals[:, 2] + 0.55 * np.maximum(normals @ sun, 0)
        middle = sun - directions
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        highlight = 0.25 * np.maximum((normals * middle).sum(1), 0) ** 60
        return colors * light[:, None] + highlight[:, None]

    def photograph(self, intrinsics: Array, pose: Array, img_res: tuple[int, int]) -> tuple[Array, Array]:
        """(H, W, 3) colors and (H, W) coverage, from 2 x 2 samples a pixel."""
        fine = (2 * img_res[0], 2 * img_res[1])
        uv = pixel_centers(fine)
        origin, directions = camera_rays(intrinsics, pose, uv / 2 - 0.25)
        faces = self.rays.intersects_first(np.broadcast_to(origin, directions.shape), directions)
        hit = faces >= 0
        place = uv / (np.array(fine[::-1]) - 1) * 2 - 1
        rgb = np.empty((len(uv), 3))
        rgb[~hit] = self.surroundings(origin, directions[~hit], place[~hit])
        rgb[hit] = self.object_color(origin, directions[hit], faces[hit])
        rgb *= 1 - VIGNETTING / 2 * np.square(place).sum(axis=1, keepdims=True)
        layers = rgb.reshape(*fine, 3), hit.reshape(fine).astype(float)
        small = [cv2.resize(layer, img_res[::-1], interpolation=cv2.INTER_AREA) for layer in layers]
        return np.asarray(small[0]), np.asarray(small[1])


def camera_poses(num_views: int) -> Array:
    """(B, 4, 4) camera-to-world, on three rings around the object."""
    generator, poses = np.random.default_rng(0), []
    ends = np.rint(np.cumsum([share for _, share in RINGS]) * num_views).astype(int)
    for i in range(num_views):
        ring = int(np.searchsorted(ends, i, side="right"))
        first = 0 if ring == 0 else ends[ring - 1]
        elevation = np.radians(RINGS[ring][0] + generator.uniform(-3, 3))
        azimuth = 2 * np.pi * (i - first + 0.4 * ring) / (ends[ring] - first)
        away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), 0])
        away[2] = np.sin(elevation)
        target = np.array([0.0, 0.0, -0.05]) + generator.uniform(-0.05, 0.05, 3)
        distance = DISTANCE * generator.uniform(0.9, 1.1)
        poses.append(look_at(target + distance * away, target, np.radians(generator.uniform(-4, 4)), 1.0))
    return np.stack(poses)


def photographs(name: str, ground: str, num_views: int, img_res: tuple[int, int]) -> Photographs:
    """Renders one case."""
    stage, generator = Stage(name, ground), np.random.default_rng(7)
    focal = FOCAL * min(img_res)
    intrinsics = np.array([[focal, 0, (img_res[1] - 1) / 2], [0, focal, (img_res[0] - 1) / 2], [0, 0, 1]])
    images, masks, projections = [], [], []
    for pose in camera_poses(num_views):
        rgb, coverage = stage.photograph(intrinsics, pose, img_res)
        rgb = np.clip(rgb, 0, 1) ** (1 / 1.6) + NOISE * generator.standard_normal(rgb.shape)
        images.append(np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8))
        masks.append(coverage > 0.5)
        projections.append(intrinsics @ np.linalg.inv(pose)[:3])
    vertices = np.asarray(stage.mesh.vertices)
    chosen = generator.choice(len(vertices), 300)
    on_object = vertices[chosen] + 0.004 * generator.standard_normal((300, 3))
    parts = [on_object, generator.uniform(-1.5, 1.5, (12, 3))]
    if ground in ("textured", "striped"):
        flat = generator.uniform(-1.6, 1.6, (500, 2))
        parts.append(np.column_stack((flat, stage.height + 0.004 * generator.standard_normal(500))))
    return Photographs(images, masks, np.stack(projections), on_object, np.concatenate(parts))


# Scores


def score(case: Photographs, start: str) -> tuple[list[NDArray[np.bool_]], Array]:
    """Made masks, and their (B,) IoUs with the true ones."""
    names = [f"view {k}" for k in range(len(case.images))]
    points = case.on_object if start == "points" else None
    scene = None if start == "cameras" else case.in_scene
    made = make_masks(case.images, names, case.projections, points, scene)
    pairs = zip(made.masks, case.masks, strict=True)
    return list(made.masks), np.array([(a & b).sum() / (a | b).sum() for a, b in pairs])


def worst_views(case: Photographs, masks: list[NDArray[np.bool_]], ious: Array) -> NDArray[np.uint8]:
    """The two worst views side by side, with the outlines of the made (red) and the true mask (green)."""
    panels = []
    for k in np.argsort(ious)[:2]:
        panel = case.images[k].copy()
        for mask, color in ((case.masks[k], (0, 255, 0)), (masks[k], (255, 0, 0))):
            lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(panel, lines, -1, color, 1)
        panels.append(panel)
    return np.hstack(panels)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """IoUs of all cases."""
    rows = []
    for name in arguments.objects:
        for ground in arguments.grounds:
            case = photographs(name, ground, arguments.views, tuple(arguments.img_res))
            for start in arguments.starts:
                row: dict[str, Any] = {"object": name, "ground": ground, "start": start}
                began = time.process_time()
                try:
                    masks, ious = score(case, start)
                    row |= {"mean": float(ious.mean()), "worst": float(ious.min())}
                    if arguments.pictures:
                        arguments.pictures.mkdir(parents=True, exist_ok=True)
                        picture = worst_views(case, masks, ious)[..., ::-1]
                        cv2.imwrite(str(arguments.pictures / f"{name}_{ground}_{start}.png"), picture)
                except InputError as error:
                    row |= {"mean": 0.0, "worst": 0.0, "refused": str(error)}
                rows.append(row | {"seconds": time.process_time() - began})
                say(line(rows[-1]))
    return {"cases": rows}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    overlap = "refused | " if "refused" in row else f"{row['mean']:.3f} | {row['worst']:.3f}"
    return f"| {row['object']} | {row['ground']} | {row['start']} | {overlap} | {row['seconds']:.0f} |"


def report(result: dict[str, Any]) -> None:
    """Prints the table and its mean."""
    lines = ["| object | ground | start | IoU, mean | IoU, worst | CPU (s) |", "|---|---|---|---:|---:|---:|"]
    lines += [line(row) for row in result["cases"]]
    mean, worst = (np.mean([row[key] for row in result["cases"]]) for key in ("mean", "worst"))
    say("\n".join([*lines, f"| all | | | {mean:.3f} | {worst:.3f} | |"]))


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = make_parser("Scores masks made from rendered photographs with exact cameras.")
    parser.add_argument("--objects", nargs="+", choices=OBJECTS, default=list(OBJECTS), help="default: all")
    parser.add_argument("--grounds", nargs="+", choices=GROUNDS, default=list(GROUNDS), help="default: all")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS[:2]), help="inputs")
    parser.add_argument("--views", type=int, default=24, help="number of photographs")
    parser.add_argument("--img_res", type=int, nargs=2, default=[360, 480], help="height and width")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for pictures of the worst views")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_benchmark(build_parser(), measure, report))
