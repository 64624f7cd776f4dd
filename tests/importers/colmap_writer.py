"""Writes COLMAP's text format, from its documentation, with each camera model's formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from tests.importers.spots import (
    CX,
    CY,
    FX,
    FY,
    HEIGHT,
    WIDTH,
    Projector,
    camera_frame,
    camera_to_world,
    write_photographs,
)
from tests.importers.writers import fisheye_formula, opencv_formula

Pair = tuple[np.ndarray, np.ndarray]


def simple_radial(x: np.ndarray, y: np.ndarray) -> Pair:
    """One radial coefficient, -0.1."""
    scale = 1 - 0.1 * (x * x + y * y)
    return x * scale, y * scale


def fov(x: np.ndarray, y: np.ndarray) -> Pair:
    """Devernay and Faugeras: r_d = atan(2 r tan(w/2)) / w, w = 0.6."""
    r = np.hypot(x, y)
    scale = np.divide(
        np.arctan(2 * r * np.tan(0.3)) / 0.6, r, out=np.full_like(r, 2 * np.tan(0.3) / 0.6), where=r > 1e-9
    )
    return x * scale, y * scale


MODELS = {
    "SIMPLE_PINHOLE": ((FX, CX, CY), lambda x, y: (x, y)),
    "PINHOLE": ((FX, FY, CX, CY), lambda x, y: (x, y)),
    "SIMPLE_RADIAL": ((FX, CX, CY, -0.1), simple_radial),
    "OPENCV": (
        (FX, FY, CX, CY, -0.16, 0.05, 0.004, -0.006),
        lambda x, y: opencv_formula(x, y, {"k1": -0.16, "k2": 0.05, "p1": 0.004, "p2": -0.006}),
    ),
    "OPENCV_FISHEYE": (
        (FX, FY, CX, CY, 0.06, -0.02, 0.003, -0.001),
        lambda x, y: fisheye_formula(x, y, {"k1": 0.06, "k2": -0.02, "k3": 0.003, "k4": -0.001}),
    ),
    "FOV": ((FX, FY, CX, CY, 0.6), fov),
}


def write_colmap(
    folder: Path, masks: Path | None = None, model: str = "PINHOLE", binary: bool = False
) -> list[Projector]:
    """A text or binary model in sparse/0 next to images/, with twelve points."""
    parameters, distort = MODELS[model]
    fy = parameters[0] if model.startswith("SIMPLE") else FY

    def projector(pose: np.ndarray) -> Projector:
        def project(points: np.ndarray) -> np.ndarray:
            x, y, z = camera_frame(points, pose).T
            xd, yd = distort(x / z, y / z)
            return np.column_stack([FX * xd + CX, fy * yd + CY]) - 0.5

        return project

    poses = camera_to_world()
    projectors = [projector(pose) for pose in poses]
    names = [f"cam{k % 2}/{k}.png" for k in range(len(poses))]
    write_photographs(folder / "images", names, projectors, masks)
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    numbers = " ".join(repr(float(value)) for value in parameters)
    (sparse / "cameras.txt").write_text(f"# cameras\n1 {model} {WIDTH} {HEIGHT} {numbers}\n")
    lines = []
    for k, (name, pose) in enumerate(zip(names, poses, strict=True)):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3].T).as_quat()
        t = -pose[:3, :3].T @ pose[:3, 3]
        lines += [" ".join(str(value) for value in (k + 1, w, x, y, z, *t, 1, name)), ""]
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    shell = np.random.default_rng(1).standard_normal((12, 3))
    points = [
        f"{j + 1} {p[0]} {p[1]} {p[2]} 9 9 9 0.5"
        for j, p in enumerate(0.8 * shell / np.linalg.norm(shell, axis=1)[:, None])
    ]
    (sparse / "points3D.txt").write_text("\n".join(points) + "\n")
    if binary:
        import pycolmap

        pycolmap.Reconstruction(str(sparse)).write_binary(str(sparse))
        for path in sparse.glob("*.txt"):
            path.unlink()
    return projectors
