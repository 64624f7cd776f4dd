"""A tiny project to corrupt, and the assertion that a command refuses it properly.

The scene is a ball in closed form, written only with numpy. B views, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from tests.process import process_left_as_it_was

import idr.conf.files
import idr.datasets.scene_dataset
import idr.runs.folders

HEIGHT, WIDTH = 12, 16
NUM_VIEWS = 6
RADIUS = 0.5  # radius of the ball in unit-sphere units
SCALE, OFFSET = 120.0, np.array([30.0, -50.0, 600.0])
INTRINSICS = np.array([[20.0, 0.0, 7.4], [0.0, 21.0, 5.8], [0.0, 0.0, 1.0]])
SCENE = "data/balls/scan3"

CONF = f"""
train {{
    expname = tiny
    dataset_class = datasets.scene_dataset.SceneDataset
    model_class = model.implicit_differentiable_renderer.IDRNetwork
    loss_class = model.loss.IDRLoss
    learning_rate = 1.0e-3
    num_pixels = 16
    plot_freq = 1000
    learning_rate_cam = 1.0e-3
}}
plot {{ plot_nimgs = 1, resolution = 8 }}
loss {{ eikonal_weight = 0.1, mask_weight = 100.0, alpha = 50.0 }}
dataset {{ data_dir = balls, img_res = [{HEIGHT}, {WIDTH}], scan_id = 3 }}
model {{
    feature_vector_size = 8
    implicit_network {{
        d_in = 3, d_out = 1, dims = [16, 16], geometric_init = True, bias = 0.6, skip_in = [], multires = 2
    }}
    rendering_network {{ mode = idr, d_in = 9, d_out = 3, dims = [16], multires_view = 1 }}
    ray_tracer {{ object_bounding_sphere = 1.0, n_steps = 8, sphere_tracing_iters = 5, n_secant_steps = 2 }}
}}
"""

Main = Callable[[Sequence[str]], int]


# ---- the scene


def look_at_origin(position: Sequence[float]) -> np.ndarray:
    """Returns the (4, 4) camera-to-world pose at a position in the unit-sphere frame, OpenCV axes."""
    center = np.asarray(position, dtype=float)
    forward = -center / np.linalg.norm(center)
    right = np.cross(forward, [0.1, 0.2, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack((right, np.cross(forward, right), forward))
    pose[:3, 3] = center
    return pose


def positions_around(count: int = NUM_VIEWS, distance: float = 3.0) -> list[np.ndarray]:
    """Camera centers spread over a sphere."""
    k = np.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    flat = np.sqrt(1 - z**2)
    return list(distance * np.column_stack((np.cos(turn) * flat, np.sin(turn) * flat, z)))


def positions_on_ring(count: int = NUM_VIEWS, distance: float = 3.0) -> list[np.ndarray]:
    """Returns camera centers in one plane."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return list(distance * np.column_stack((np.cos(turn), np.sin(turn), np.zeros(count))))


def silhouette(pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels whose rays hit the ball."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack((columns, rows, np.ones(size)), axis=-1)
    rays = pixels @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    center = pose[:3, 3]
    return (center @ center - (rays @ center) ** 2 < RADIUS**2) & (rays @ center < 0)


def camera_matrices(
    poses: Sequence[np.ndarray], intrinsics: np.ndarray = INTRINSICS
) -> dict[str, np.ndarray]:
    """Returns the entries world_mat_i and scale_mat_i of an npz."""
    scale_mat = np.diag([SCALE, SCALE, SCALE, 1.0])
    scale_mat[:3, 3] = OFFSET
    matrices = {}
    for i, pose in enumerate(poses):
        world_pose = pose.copy()
        world_pose[:3, 3] = SCALE * pose[:3, 3] + OFFSET
        world_mat = np.eye(4)
        world_mat[:3] = intrinsics @ np.linalg.inv(world_pose)[:3]
        matrices |= {f"world_mat_{i}": world_mat, f"scale_mat_{i}": scale_mat}
    return matrices


def write_scene(
    folder: Path,
    positions: Sequence[np.ndarray] | None = None,
    intrinsics: np.ndarray = INTRINSICS,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """Writes images, masks, exact and noisy cameras.

    Args:
        folder: The scene's folder; replaced if it exists.
        positions: B camera centers in units of the bounding sphere.
        intrinsics: (3, 3) K.
        size: H and W.

    Returns:
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("image", "mask"):
        (folder / name).mkdir(parents=True)
    poses = [
        look_at_origin(position) for position in (positions_around() if positions is None else positions)
    ]
    for i, pose in enumerate(poses):
        mask = silhouette(pose, intrinsics, size)
        photo = np.zeros((*size, 3), np.uint8)
        photo[mask] = (200, 40 * i % 256, 90)
        iio.imwrite(folder / "image" / f"{i:06d}.png", photo)
        iio.imwrite(folder / "mask" / f"{i:03d}.png", mask.astype(np.uint8) * 255)
    np.savez(folder / "cameras.npz", **camera_matrices(poses, intrinsics))
    noisy = [pose.copy() for pose in poses]
    for i, pose in enumerate(noisy):
        pose[:3, 3] *= 1 + 0.01 * (-1) ** i
    np.savez(folder / "cameras_linear_init.npz", **camera_matrices(noisy, intrinsics))
    return folder


def rewrite_npz(path: Path, **changes: Any) -> None:
    """Replaces entries of an npz; None removes an entry."""
    with np.load(path) as archive:
        entries = {key: archive[key] for key in archive.files} | changes
    np.savez(path, **{key: value for key, value in entries.items() if value is not None})


def cut_short(path: Path, share: float = 0.5) -> None:
    """Truncates a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# ---- the project


@contextmanager
def project_at(root: Path) -> Iterator[pytest.MonkeyPatch]:
    """Uses a folder as project root, in place of the checkout, for confs, data, runs and results."""
    with pytest.MonkeyPatch.context() as patch, process_left_as_it_was():
        for module in (idr.conf.files, idr.runs.folders, idr.datasets.scene_dataset):
            patch.setattr(module, "project_root", lambda: root)
        patch.chdir(root)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield patch


def snapshot(root: Path) -> dict[str, str]:
    """Hashes of all files below a folder, by name; also lists folders and links."""
    entries = {}
    for path in sorted(root.rglob("*")):
        entry = f"-> {path.readlink()}" if path.is_symlink() else "folder"
        if path.is_file() and not path.is_symlink():
            entry = hashlib.sha256(path.read_bytes()).hexdigest()
        entries[str(path.relative_to(root))] = entry
    return entries


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A project root with ``tiny.conf`` and one scene, in which commands run."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def scene(self) -> Path:
        """Folder of the scene."""
        return self.root / SCENE

    @property
    def conf(self) -> Path:
        """The conf."""
        return self.root / "tiny.conf"

    def run(self, main: Main, *argv: str | Path) -> Outcome:
        """Runs a command in this process."""
        self.capsys.readouterr()
        status = main([str(argument) for argument in argv])
        captured = self.capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    def train(self, *argv: str | Path) -> Outcome:
        """Trains one epoch by default."""
        from idr.cli.train import main

        return self.run(main, *TRAIN, *argv)

    def refuses(self, main: Main, *argv: str | Path, texts: Sequence[str]) -> Outcome:
        """Asserts exit status 2, one message with all texts in `texts`, and unchanged files."""
        before = snapshot(self.root)
        outcome = self.run(main, *argv)
        assert outcome.status == 2, outcome
        message = outcome.err[outcome.err.rindex("error: ") :]
        for text in texts:
            assert text in message, f"{text!r} is not in {message!r}"
        assert outcome.err.count("error: ") == 1, outcome.err
        assert "Traceback" not in outcome.err and "Traceback" not in outcome.out
        assert snapshot(self.root) == before
        return outcome

    def refuses_to_train(self, *argv: str | Path, texts: Sequence[str]) -> Outcome:
        """`refuses` for training one epoch."""
        from idr.cli.train import main

        return self.refuses(main, *TRAIN, *argv, texts=texts)


TRAIN = ("--conf", "tiny.conf", "--nepoch", "1", "--device", "cpu", "--gpu", "ignore")
EVALUATE = (
    "--conf",
    "tiny.conf",
    "--device",
    "cpu",
    "--gpu",
    "ignore",
    "--resolution",
    "8",
    "--is_uniform_grid",
)


def only_run(root: Path, name: str = "tiny_3") -> Path:
    """The only run with this name."""
    (folder,) = (root / "exps" / name).iterdir()
    return folder


def save_files(run: Path, parts: Mapping[str, Any], name: str = "5") -> None:
    """Writes checkpoint files like the published code: torch.save, without manifests."""
    import torch

    for part, content in parts.items():
        folder = run / "checkpoints" / part
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / f"{name}.pth")
