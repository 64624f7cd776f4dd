"""Points triangulated from photographs of a textured sphere, whose places are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from idr.cli.triangulate_points import main
from idr.datasets.points import HELD_OUT_EVERY, POINTS_FILE, held_out_points, read_points
from idr.demo.cameras import look_at
from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import project_points
from idr.preprocess.triangulation import _fundamental, _tracks, triangulate

SIZE, NUM_VIEWS, RADIUS = (150, 200), 6, 0.6
INTRINSICS = np.array([[260.0, 0.0, 99.5], [0.0, 260.0, 74.5], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Ball:
    images: list
    masks: list
    projections: np.ndarray


@pytest.fixture(scope="module")
def ball() -> Ball:
    """Photographs of a ball with a random texture, 12 degrees apart."""
    solid = gaussian_filter(np.random.default_rng(0).standard_normal((64, 64, 64)), 1.2)
    solid = (127.5 + 60 * solid / solid.std()).clip(0, 255)
    images, masks, projections = [], [], []
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3)
    for k in range(NUM_VIEWS):
        angle = np.radians(12 * k)
        center = 2.4 * np.array([np.cos(angle), np.sin(angle), 0.2 * np.sin(3 * angle)])
        pose = look_at(center, np.zeros(3))
        rays = pixels @ np.linalg.inv(INTRINSICS).T @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        root = (rays @ center) ** 2 - (center @ center - RADIUS**2)
        mask = root > 0
        points = center + (-(rays @ center) - np.sqrt(root.clip(0)))[:, None] * rays
        texels = torch.from_numpy(np.where(mask[:, None], points, 0)[None, None, None]).float()
        volume = torch.from_numpy(solid)[None, None].float()
        gray = torch.nn.functional.grid_sample(volume, texels, align_corners=True)[0, 0, 0, 0].numpy()
        image = np.where(mask, gray, 0).round().astype(np.uint8).reshape(*SIZE, 1).repeat(3, axis=2)
        images.append(image)
        masks.append(mask.reshape(SIZE))
        projections.append(INTRINSICS @ np.linalg.inv(pose)[:3])
    return Ball(images, masks, np.stack(projections))


def test_points_lie_on_the_ball(ball: Ball) -> None:
    lines: list[str] = []
    found = triangulate(ball.images, ball.masks, ball.projections, log=lines.append)
    assert len(found.points) > 40 and len(lines) == 3
    off = np.abs(np.linalg.norm(found.points, axis=1) - RADIUS)
    assert (
        np.median(off) < 0.006 and np.percentile(off, 95) < 0.03
    )  # a pixel is 0.009, rays meet at 12 degrees
    assert found.reprojection.max() <= 1.0 and found.track_length.min() >= 3


def test_wrong_matches_give_no_points(ball: Ball) -> None:
    swapped = ball.projections[[3, 4, 5, 0, 1, 2]]  # each photograph with another one's camera
    found = triangulate(ball.images, ball.masks, swapped)
    true = triangulate(ball.images, ball.masks, ball.projections)
    assert len(found.points) < 0.1 * len(true.points)


def test_the_fundamental_matrix_holds_for_projected_points(ball: Ball) -> None:
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 3))
    first, second = (
        np.column_stack((project_points(points, projection)[0], np.ones(20)))
        for projection in ball.projections[:2]
    )
    matrix = _fundamental(ball.projections[0], ball.projections[1])
    lines = first @ matrix.T
    distance = (second * lines).sum(axis=1) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.abs(distance).max() < 1e-8


def test_tracks_with_two_keypoints_in_a_view_are_dropped() -> None:
    matches = {
        (0, 1): np.array([[0, 0], [5, 5]]),
        (1, 2): np.array([[0, 0], [5, 5]]),
        (0, 2): np.array([[6, 5], [3, 3]]),  # 6 joins the track of 5 in view 0; 3 is in two views only
    }
    assert _tracks(matches, 3) == [[(0, 0), (1, 0), (2, 0)]]


def scene_folder(ball: Ball, folder: Path) -> Path:
    for name in ("image", "mask"):
        (folder / name).mkdir(parents=True)
    matrices = {}
    for k in range(NUM_VIEWS):
        iio.imwrite(folder / "image" / f"{k:03d}.png", ball.images[k])
        iio.imwrite(folder / "mask" / f"{k:03d}.png", 255 * ball.masks[k].astype(np.uint8))
        matrices[f"world_mat_{k}"] = np.vstack((ball.projections[k], [0, 0, 0, 1]))
        matrices[f"scale_mat_{k}"] = np.eye(4)
    np.savez(folder / "cameras.npz", **matrices)
    return folder


def test_the_command_writes_what_training_reads(ball: Ball, tmp_path: Path, capsys) -> None:
    scene = scene_folder(ball, tmp_path / "scan1")
    assert main(["--source_dir", str(scene)]) == 0
    assert "wrote" in capsys.readouterr().out
    points = read_points(scene / POINTS_FILE)
    assert len(points.points) > 40
    assert points.held_out.sum() == -(-len(points.points) // HELD_OUT_EVERY)
    before = (scene / POINTS_FILE).read_bytes()
    assert main(["--source_dir", str(scene)]) == 2
    assert "--overwrite" in capsys.readouterr().err and (scene / POINTS_FILE).read_bytes() == before
    assert main(["--source_dir", str(scene), "--overwrite"]) == 0


def test_a_scene_without_texture_is_refused(ball: Ball, tmp_path: Path, capsys) -> None:
    flat = [np.full_like(image, 128) for image in ball.images]
    scene = scene_folder(Ball(flat, ball.masks, ball.projections), tmp_path / "scan1")
    assert main(["--source_dir", str(scene)]) == 2
    assert "textured" in capsys.readouterr().err and not (scene / POINTS_FILE).exists()


@pytest.mark.parametrize("arrays", [{}, {"points_world": np.zeros((0, 3))}, {"points_world": np.zeros(3)}])
def test_files_without_points_are_refused(tmp_path: Path, arrays: dict) -> None:
    np.savez(tmp_path / POINTS_FILE, **arrays)
    with pytest.raises(InputError, match="points_world"):
        read_points(tmp_path / POINTS_FILE)
    with pytest.raises(MissingInputError, match="triangulate_points.py"):
        read_points(tmp_path / "other.npz")


def test_the_held_out_points_are_a_fixed_tenth() -> None:
    assert np.array_equal(held_out_points(95), held_out_points(95)) and held_out_points(95).sum() == 10
    assert held_out_points(1).all()
