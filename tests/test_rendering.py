"""The image renderer around a closed-form ball, and around values the published code returned."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from idr.conf.files import load_conf
from idr.geometry.quaternions import rotation_to_quaternion
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.rendering import render_image, write_image
from tests.evaluation.ball import (
    GRAY,
    HEIGHT,
    INTRINSICS,
    RADIUS,
    WIDTH,
    BallModel,
    exact_hit,
    unit_poses,
)

GOLDEN = Path(__file__).parent / "parity" / "golden"


@pytest.fixture
def ball():
    return BallModel({"feature_vector_size": 4}).eval()


@pytest.fixture
def intrinsics():
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.tensor(INTRINSICS)
    return matrix


def pose_of(index):
    return torch.tensor(unit_poses()[index]).float()


def test_ball_pixel_by_pixel(ball, intrinsics):
    pose = pose_of(1)
    image = render_image(ball, intrinsics, pose, (HEIGHT, WIDTH))
    expected = exact_hit(unit_poses()[1])
    np.testing.assert_array_equal(image.hit.numpy(), expected)
    np.testing.assert_allclose(image.rgb01[image.hit], GRAY, atol=1e-6)
    assert (image.rgb[~image.hit] == 1).all()
    np.testing.assert_allclose(image.points[image.hit].norm(dim=1), RADIUS, atol=1e-5)
    np.testing.assert_allclose(image.sdf[image.hit], 0, atol=1e-5)
    # The ray through a pixel meets its point again when projected.
    row, column = 13, 20
    assert image.hit[row, column]
    in_camera = torch.linalg.inv(pose)[:3] @ torch.cat((image.points[row, column], torch.ones(1)))
    uv = (intrinsics[:3, :3] @ in_camera)[:2] / in_camera[2]
    np.testing.assert_allclose(uv, [column, row], atol=1e-3)
    assert image.depth[row, column] == pytest.approx(float(in_camera[2]), abs=1e-5)
    assert torch.isinf(image.depth[~image.hit]).all()


@pytest.mark.parametrize("chunk_pixels", [1, 7, 100, HEIGHT * WIDTH, 10**6])
def test_chunks_change_nothing(ball, intrinsics, chunk_pixels):
    pose = pose_of(2)
    sizes = []

    def forward(inputs):
        sizes.append(inputs["uv"].shape[1])
        return ball(inputs)

    image = render_image(forward, intrinsics, pose, (HEIGHT, WIDTH), chunk_pixels=chunk_pixels)
    whole = render_image(ball, intrinsics, pose, (HEIGHT, WIDTH))
    assert max(sizes) <= chunk_pixels and sum(sizes) == HEIGHT * WIDTH
    assert len(sizes) == -(-HEIGHT * WIDTH // chunk_pixels)
    torch.testing.assert_close(image.rgb, whole.rgb)
    torch.testing.assert_close(image.depth, whole.depth, atol=1e-5, rtol=0)


def test_pose_as_vector_is_the_same_pose(ball, intrinsics):
    pose = pose_of(3)
    vector = torch.cat((3 * rotation_to_quaternion(pose[:3, :3]), pose[:3, 3]))  # norm 3: still one rotation
    first, second = (render_image(ball, intrinsics, p, (HEIGHT, WIDTH)) for p in (pose, vector))
    assert (first.hit == second.hit).float().mean() > 0.995
    both = first.hit & second.hit
    torch.testing.assert_close(first.depth[both], second.depth[both], atol=1e-3, rtol=0)


def test_mask_reaches_the_model_and_misses_are_white(intrinsics):
    mask = torch.rand(HEIGHT * WIDTH, generator=torch.Generator().manual_seed(0)) > 0.5

    def forward(inputs):
        assert not torch.is_grad_enabled()
        inside = inputs["object_mask"][0]
        count = len(inside)
        return {
            "points": torch.zeros(count, 3),
            "rgb_values": torch.full((count, 3), -0.5),
            "sdf_output": torch.zeros(count, 1),
            "network_object_mask": inside,
        }

    image = render_image(forward, intrinsics, pose_of(0), (HEIGHT, WIDTH), mask, chunk_pixels=50)
    assert torch.equal(image.hit.flatten(), mask)
    assert (image.rgb[image.hit] == -0.5).all() and (image.rgb[~image.hit] == 1).all()


@pytest.mark.parametrize("strategy", ["published", "accelerated"])
def test_golden_view_of_the_published_code(strategy):
    conf = load_conf(GOLDEN / "a" / "model.conf", (f"model.ray_tracer.strategy={strategy}",))
    model = IDRNetwork(conf["model"]).eval()
    state = torch.load(GOLDEN / "a" / "checkpoint.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(state["model_state_dict"])
    golden = np.load(GOLDEN / "a" / "arrays.npz")
    intrinsics, pose = (torch.tensor(golden[f"eval7.in.{key}"])[0].float() for key in ("intrinsics", "pose"))
    image = render_image(model, intrinsics, pose, (128, 160), chunk_pixels=4096)
    column, row = golden["eval7.in.uv"].reshape(-1, 2).astype(int).T
    hit = golden["eval7.out.network_object_mask"].reshape(-1)
    assert (image.hit.numpy()[row, column] == hit).mean() >= 0.999
    both = image.hit.numpy()[row, column] & hit
    rgb = golden["eval7.out.rgb_values"].reshape(-1, 3)
    difference = np.abs(image.rgb.numpy()[row, column][both] - rgb[both])
    if strategy == "published":
        assert difference.max() < 5e-4  # the golden arrays' own tolerance
    assert (
        10 * np.log10(1 / max(np.mean((difference / 2) ** 2), 1e-20)) > 60
    )  # the bound of the accelerated tracer: 50
    assert both.sum() > 100


def test_wrong_shapes_are_refused(ball, intrinsics):
    with pytest.raises(ValueError, match="chunk_pixels = 0"):
        render_image(ball, intrinsics, pose_of(0), (HEIGHT, WIDTH), chunk_pixels=0)
    with pytest.raises(ValueError, match="expected"):
        render_image(ball, intrinsics[:3, :3], pose_of(0), (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="object_mask of 5"):
        render_image(ball, intrinsics, pose_of(0), (HEIGHT, WIDTH), torch.ones(5))


def test_written_image_is_rounded_and_clipped(tmp_path):
    rgb = torch.tensor([[[0.0, 0.5, 1.0], [1.7, -0.2, 0.4]]])
    write_image(rgb, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(iio.imread(tmp_path / "new" / "a.png"), [[[0, 128, 255], [255, 0, 102]]])
