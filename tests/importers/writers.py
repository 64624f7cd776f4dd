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


def pinhole_k() -> np.ndarray:
    """K of `pinhole_projectors`."""
    return np.array([[FX, 0.4, CX], [0, FY, CY], [0, 0, 1]])


def world_to_camera() -> list[np.ndarray]:
    """(4, 4) matrices [R | t] with OpenCV axes."""
    return [np.linalg.inv(pose) for pose in camera_to_world()]


def square(k: np.ndarray) -> list[list[float]]:
    """K as 4 x 4 lists."""
    return np.vstack([np.column_stack([k, np.zeros(3)]), [0, 0, 0, 1]]).tolist()


def write_neus2(folder: Path, masks: Path | None = None) -> list[Projector]:
    """`transform.json` with OpenCV axes and a matrix of intrinsics for each frame."""
    projectors, _ = pinhole_projectors()
    names = [f"images/{k}.png" for k in range(len(projectors))]
    write_photographs(folder, names, projectors, masks)
    own = [{"intrinsic_matrix": square(pinhole_k())} for _ in names]
    top = {"from_na": True, "w": WIDTH, "h": HEIGHT}
    write_json(folder, top, names, camera_to_world(), own, "transform.json")
    return projectors


def write_sdfstudio(
    folder: Path, masks: Path | None = None, to_truth: np.ndarray | None = None
) -> list[Projector]:
    """`meta_data.json`; the world is that of `camera_to_world` mapped by the inverse of `to_truth`."""
    projectors, _ = pinhole_projectors()
    names = [f"{k:06d}_rgb.png" for k in range(len(projectors))]
    write_photographs(folder, names, projectors, masks)
    to_truth = np.eye(4) if to_truth is None else to_truth
    frames = []
    for name, pose in zip(names, camera_to_world(), strict=True):
        moved = np.linalg.inv(to_truth) @ pose
        moved[:3, :3] /= np.cbrt(np.linalg.det(moved[:3, :3]))
        frames.append({"rgb_path": name, "camtoworld": moved.tolist(), "intrinsics": square(pinhole_k())})
    content = {"height": HEIGHT, "width": WIDTH, "worldtogt": to_truth.tolist(), "frames": frames}
    (folder / "meta_data.json").write_text(json.dumps(content))
    return projectors


def write_mvsnet(folder: Path, masks: Path | None = None, images: str = "images") -> list[Projector]:
    """`cams/*_cam.txt` with extrinsics, intrinsics and a line of depths."""
    projectors, _ = pinhole_projectors()
    names = [f"{images}/{k:08d}.png" for k in range(len(projectors))]
    write_photographs(folder, names, projectors, masks)
    (folder / "cams").mkdir()
    for k, matrix in enumerate(world_to_camera()):
        blocks = [("extrinsic", matrix), ("intrinsic", pinhole_k())]
        lines = []
        for word, values in blocks:
            lines += [word, *(" ".join(map(repr, row)) for row in values.tolist()), ""]
        (folder / "cams" / f"{k:08d}_cam.txt").write_text("\n".join([*lines, "425.0 2.5", ""]))
    return projectors


def write_dvr(folder: Path, masks: Path | None = None, normalized: bool = False) -> list[Projector]:
    """`world_mat_i` = [R | t] beside `camera_mat_i`, which maps to pixels or to [-1, 1]."""
    projectors, _ = pinhole_projectors()
    names = [f"image/{k:03d}.png" for k in range(len(projectors))]
    write_photographs(folder, names, projectors, folder / "mask")
    k_matrix = pinhole_k()
    if normalized:  # the first pixel's center to -1, the last one's to 1
        x, y = 2 / (WIDTH - 1), 2 / (HEIGHT - 1)
        k_matrix = np.array([[x, 0, -1], [0, y, -1], [0, 0, 1]]) @ k_matrix
    arrays = {f"camera_mat_{k}": np.array(square(k_matrix)) for k in range(len(names))}
    arrays |= {f"world_mat_{k}": matrix for k, matrix in enumerate(world_to_camera())}
    arrays |= {f"scale_mat_{k}": np.diag([1.5, 1.5, 1.5, 1.0]) for k in range(len(names))}
    np.savez(folder / "cameras.npz", **arrays)
    return projectors


def write_padded(folder: Path, masks: Path | None = None) -> list[Projector]:
    """An IDR folder with `world_mat_00`."""
    projectors = write_npz(folder, masks, "cameras.npz")
    with np.load(folder / "cameras.npz") as arrays:
        padded = {f"{key[:-1]}{int(key[-1]):02d}": arrays[key] for key in arrays.files}
    np.savez(folder / "cameras.npz", **padded)
    return projectors
