"""Outputs of the frames of a path, on a closed-form ball."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from idr.export.path_frames import OUTPUTS, FramePainter, Path3D, film_frame, write_path
from tests.evaluation import ball

POSES = ball.unit_poses()[:3]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Every output of three frames, and the range of their depths."""
    folder = tmp_path_factory.mktemp("frames")
    model = ball.BallModel({"feature_vector_size": 4}).eval()
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    path = Path3D(intrinsics.expand(3, 4, 4), POSES, (ball.HEIGHT, ball.WIDTH))
    depths = path.depth_range(1.0)
    painter = FramePainter(depths, lambda points: model.implicit_network.gradient(points)[:, 0].detach())
    seen = []
    names = {kind: f"{kind}_{{:02d}}.png" for kind in OUTPUTS}
    files = write_path(
        model, path, folder, names, painter, 100, lambda n, pictures: seen.append((n, pictures))
    )
    assert files == [folder / f"{kind}_{n:02d}.png" for n in range(3) for kind in OUTPUTS]
    pictures = {(kind, n): iio.imread(folder / f"{kind}_{n:02d}.png") for n in range(3) for kind in OUTPUTS}
    for n, written in seen:
        for kind, picture in written.items():
            np.testing.assert_array_equal(picture, pictures[kind, n])
    return pictures, depths


@pytest.mark.parametrize("number", range(3))
def test_outputs_show_the_ball(frames, number):
    pictures, (near, far) = frames
    pose, inside = POSES[number], ball.exact_hit(POSES[number])
    np.testing.assert_array_equal(pictures["mask", number], inside * 255)
    gray = np.where(inside, round(ball.GRAY * 255), 255)
    np.testing.assert_array_equal(pictures["color", number], np.repeat(gray[..., None], 3, axis=2))
    depth, normal = pictures["depth", number], pictures["normal", number]
    assert depth.dtype == np.uint16 and (depth[~inside] == 0).all() and (normal[~inside] == 0).all()
    for row, column in np.argwhere(inside)[::5]:
        ray = np.linalg.solve(ball.INTRINSICS, [column, row, 1.0])  # its z is 1: lengths along it are depths
        center = pose[:3, :3].T @ -pose[:3, 3]  # the ball's, in the camera's axes
        a, b, c = ray @ ray, ray @ center, center @ center - ball.RADIUS**2
        along = (b - np.sqrt(b * b - a * c)) / a
        shown = near + (depth[row, column] - 1) / 65534 * (far - near)
        assert shown == pytest.approx(along, abs=1e-4)  # float32 tracing
        expected = (ray * along - center) / ball.RADIUS * [1, -1, -1]
        np.testing.assert_allclose(normal[row, column] / 255 * 2 - 1, expected, atol=0.006)


def test_supersampling_blends_colors_and_masks_and_leaves_depths_and_normals(frames, tmp_path):
    pictures, depths = frames
    model = ball.BallModel({"feature_vector_size": 4}).eval()
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    path = Path3D(intrinsics[None], POSES[:1], (ball.HEIGHT, ball.WIDTH))
    painter = FramePainter(depths, lambda points: model.implicit_network.gradient(points)[:, 0].detach())
    names = {kind: f"{kind}_{{:02d}}.png" for kind in OUTPUTS}
    write_path(model, path, tmp_path, names, painter, 100, supersample=2)
    color, depth, normal, mask = (
        iio.imread(tmp_path / f"{kind}_00.png") for kind in ("color", "depth", "normal", "mask")
    )
    np.testing.assert_array_equal(depth, pictures["depth", 0])
    np.testing.assert_array_equal(normal, pictures["normal", 0])
    assert set(np.unique(mask)) == {0, 64, 128, 191, 255}  # quarters; 127.5 rounds to even
    share = np.round(mask / 255 * 4) / 4
    levels = np.round(255 * (1 - share * (1 - ball.GRAY)))
    np.testing.assert_allclose(color, np.repeat(levels[..., None], 3, axis=2), atol=1)  # halves round


def test_depth_range_contains_the_sphere_in_all_frames(frames):
    _, (near, far) = frames
    distances = np.linalg.norm(POSES[:, :3, 3], axis=1)
    assert (near, far) == pytest.approx((distances.min() - 1, distances.max() + 1))


def test_films_have_eight_bits_and_three_channels(frames):
    pictures, _ = frames
    for kind in OUTPUTS:
        frame = film_frame(pictures[kind, 0])
        assert frame.shape == (ball.HEIGHT, ball.WIDTH, 3) and frame.dtype == np.uint8
    depth, film = pictures["depth", 0], film_frame(pictures["depth", 0])[..., 0]
    inside = depth > 0
    order = np.argsort(depth[inside])
    assert (np.diff(film[inside][order].astype(int)) <= 0).all() and film[inside].min() >= 40
    assert (film[~inside] == 0).all()
