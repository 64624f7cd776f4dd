"""Writes small scenes in each source format, with projectors that follow the format's convention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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

OPENCV = {"k1": -0.16, "k2": 0.05, "p1": 0.004, "p2": -0.006}
FISHEYE = {"k1": 0.06, "k2": -0.02, "k3": 0.003, "k4": -0.001}


def opengl_projector(pose: np.ndarray, fx: float, fy: float, cx: float, cy: float) -> Projector:
    """NeRF's convention: looking along -z, y up, first pixel's center at 0.5."""

    def project(points: np.ndarray) -> np.ndarray:
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        return np.column_stack([fx * x / -z + cx, -fy * y / -z + cy]) - 0.5

    return project


def to_opengl(pose: np.ndarray) -> np.ndarray:
    """The same camera with OpenGL axes."""
    return pose @ np.diag([1.0, -1.0, -1.0, 1.0])


def write_nerfstudio(folder: Path, masks: Path | None = None) -> list[Projector]:
    """One shared camera, with intrinsics for the whole file."""
    poses = [to_opengl(pose) for pose in camera_to_world()]
    projectors = [opengl_projector(pose, FX, FY, CX, CY) for pose in poses]
    names = [f"images/frame_{k + 1}.png" for k in range(len(poses))]
    write_photographs(folder, names, projectors, masks)
    top = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT, "camera_model": "OPENCV"}
    write_json(folder, top, names, poses)
    return projectors


def write_several_cameras(folder: Path, masks: Path | None = None) -> list[Projector]:
    """Different intrinsics in each frame, which override those of the file."""
    poses = [to_opengl(pose) for pose in camera_to_world()]
    own = [
        {"fl_x": FX + 4 * k, "fl_y": FY - 3 * k, "cx": CX + k, "cy": CY - k, "w": WIDTH, "h": HEIGHT}
        for k in range(len(poses))
    ]
    projectors = [
        opengl_projector(pose, o["fl_x"], o["fl_y"], o["cx"], o["cy"])
        for pose, o in zip(poses, own, strict=True)
    ]
    names = [f"images/{k}.png" for k in range(len(poses))]
    write_photographs(folder, names, projectors, masks)
    write_json(folder, {"fl_x": 1.0, "cx": 0.0}, names, poses, own)
    return projectors


def write_blender(folder: Path, masks: Path | None = None) -> list[Projector]:
    """Only camera_angle_x, and file names without extension."""
    poses = [to_opengl(pose) for pose in camera_to_world()]
    angle = 0.8
    focal = WIDTH / 2 / np.tan(angle / 2)
    projectors = [opengl_projector(pose, focal, focal, WIDTH / 2, HEIGHT / 2) for pose in poses]
    names = [f"train/r_{k}" for k in range(len(poses))]
    write_photographs(folder, [f"{name}.png" for name in names], projectors, masks)
    write_json(
        folder, {"camera_angle_x": angle}, [f"./{n}" for n in names], poses, name="transforms_train.json"
    )
    return projectors


def write_lens(folder: Path, masks: Path | None, model: str, values: dict[str, float]) -> list[Projector]:
    """A distorted camera, by the formulas below."""
    poses = camera_to_world()
    distort = opencv_formula if model == "OPENCV" else fisheye_formula

    def projector(pose: np.ndarray) -> Projector:
        def project(points: np.ndarray) -> np.ndarray:
            x, y, z = camera_frame(points, pose).T
            xd, yd = distort(x / z, y / z, values)
            return np.column_stack([FX * xd + CX, FY * yd + CY]) - 0.5

        return project

    projectors = [projector(pose) for pose in poses]
    names = [f"images/{k}.png" for k in range(len(poses))]
    write_photographs(folder, names, projectors, masks)
    top = {
        "fl_x": FX,
        "fl_y": FY,
        "cx": CX,
        "cy": CY,
        "w": WIDTH,
        "h": HEIGHT,
        "camera_model": model,
        **values,
    }
    write_json(folder, top, names, [to_opengl(pose) for pose in poses])
    return projectors


def opencv_formula(x: np.ndarray, y: np.ndarray, v: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Brown's polynomial, from OpenCV's manual."""
    r2 = x * x + y * y
    radial = 1 + v["k1"] * r2 + v["k2"] * r2**2
    return (
        x * radial + 2 * v["p1"] * x * y + v["p2"] * (r2 + 2 * x * x),
        y * radial + v["p1"] * (r2 + 2 * y * y) + 2 * v["p2"] * x * y,
    )


def fisheye_formula(x: np.ndarray, y: np.ndarray, v: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Kannala and Brandt's polynomial in the angle."""
    r = np.hypot(x, y)
    t = np.arctan(r)
    distorted = t * (1 + v["k1"] * t**2 + v["k2"] * t**4 + v["k3"] * t**6 + v["k4"] * t**8)
    scale = np.divide(distorted, r, out=np.ones_like(r), where=r > 1e-9)
    return x * scale, y * scale


def write_json(
    folder: Path,
    top: dict[str, Any],
    names: list[str],
    poses: list[np.ndarray],
    own: list[dict[str, Any]] | None = None,
    name: str = "transforms.json",
) -> None:
    """Writes the JSON file."""
    own = own or [{} for _ in names]
    frames = [
        {"file_path": n, "transform_matrix": p.tolist(), **o}
        for n, p, o in zip(names, poses, own, strict=True)
    ]
    (folder / name).write_text(json.dumps({**top, "frames": frames}))


def pinhole_projectors() -> tuple[list[Projector], list[np.ndarray]]:
    """Projectors with the first pixel's center at 0, and their (3, 4) projections."""
    k = np.array([[FX, 0.4, CX], [0, FY, CY], [0, 0, 1]])
    matrices = []
    for pose in camera_to_world():
        rotation = pose[:3, :3].T
        matrices.append(k @ np.column_stack([rotation, -rotation @ pose[:3, 3]]))

    def projector(matrix: np.ndarray) -> Projector:
        def project(points: np.ndarray) -> np.ndarray:
            pixels = points @ matrix[:, :3].T + matrix[:, 3]
            return pixels[:, :2] / pixels[:, 2:]

        return project

    return [projector(m) for m in matrices], matrices


def write_npz(folder: Path, masks: Path | None = None, file: str = "cameras_sphere.npz") -> list[Projector]:
    """A NeuS (or IDR) folder; matrices with either sign and any scale."""
    projectors, matrices = pinhole_projectors()
    write_photographs(
        folder, [f"image/{k:03d}.png" for k in range(len(matrices))], projectors, folder / "mask"
    )
    arrays = {}
    for k, matrix in enumerate(matrices):
        arrays[f"world_mat_{k}"] = np.vstack([matrix * (-2.0) ** (k % 3), [0, 0, 0, 1]])
        arrays[f"scale_mat_{k}"] = np.diag([1.5, 1.5, 1.5, 1.0])
    np.savez(folder / file, **arrays)
    return projectors


def write_middlebury(folder: Path, masks: Path | None = None) -> list[Projector]:
    """Lines `name K R t`."""
    projectors, _ = pinhole_projectors()
    names = [f"ball{k + 1:04d}.png" for k in range(len(projectors))]
    write_photographs(folder, names, projectors, masks)
    k = np.array([[FX, 0.4, CX], [0, FY, CY], [0, 0, 1]])
    lines = [str(len(names))]
    for name, pose in zip(names, camera_to_world(), strict=True):
        rotation = pose[:3, :3].T
        numbers = [*k.ravel(), *rotation.ravel(), *(-rotation @ pose[:3, 3])]
        lines.append(" ".join([name, *(repr(float(n)) for n in numbers)]))
    (folder / "ball_par.txt").write_text("\n".join(lines) + "\n")
    return projectors


def write_projections(folder: Path, masks: Path | None = None) -> list[Projector]:
    """One text file next to each image."""
    projectors, matrices = pinhole_projectors()
    write_photographs(folder, [f"v{k}.png" for k in range(len(matrices))], projectors, masks)
    for k, matrix in enumerate(matrices):
        rows = "\n".join(" ".join(repr(float(value)) for value in row) for row in matrix)
        (folder / f"v{k}.txt").write_text(("CONTOUR\n" if k == 0 else "") + rows + "\n")
    return projectors


def write_pmvs(folder: Path, masks: Path | None = None) -> list[Projector]:
    """Images in visualize/ and texts in txt/ with different names, paired by their order."""
    projectors, matrices = pinhole_projectors()
    write_photographs(folder, [f"visualize/a{k}.png" for k in range(len(matrices))], projectors, masks)
    (folder / "txt").mkdir()
    for k, matrix in enumerate(matrices):
        text = "\n".join(" ".join(repr(float(value)) for value in row) for row in matrix)
        (folder / "txt" / f"{k:08d}.txt").write_text("CONTOUR\n" + text)
    return projectors
