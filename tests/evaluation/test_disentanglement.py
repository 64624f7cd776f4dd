"""Camera paths against their definition, and mixed models against their parts."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation
from tests.evaluation import ball

from idr.errors import InputError
from idr.evaluation import video
from idr.evaluation.disentanglement import (
    PUBLISHED_DISTANCES,
    PUBLISHED_TIMES,
    PUBLISHED_VIEWS,
    camera_path,
    compose,
    path_keys,
    resized_intrinsics,
)
from idr.evaluation.loading import LoadedModel
from idr.geometry.cameras import pixel_rays

CPU = torch.device("cpu")


def keys_around(angles, axis=(0.2, 1.0, -0.3)):
    unit = np.array(axis) / np.linalg.norm(axis)
    return Rotation.from_rotvec(np.outer(np.radians(angles), unit)).as_matrix()


def random_keys(seed, count=4):
    rotations = Rotation.random(count, random_state=seed).as_matrix()
    return np.concatenate((rotations, rotations[:1]))


def angle_between(first, second):
    return np.degrees(Rotation.from_matrix(first.T @ second).magnitude())


@pytest.mark.parametrize("seed", range(5))
def test_path_passes_its_keys_and_looks_at_the_origin(seed):
    rotations = random_keys(seed)
    poses = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, np.array(PUBLISHED_TIMES))
    np.testing.assert_allclose(poses[:, :3, :3], rotations, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), PUBLISHED_DISTANCES)
    between = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, np.linspace(0, 6, 37))
    products = between[:, :3, :3] @ between[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (37, 3, 3)), atol=1e-9)
    towards_origin = -between[:, :3, 3] / np.linalg.norm(between[:, :3, 3], axis=1, keepdims=True)
    np.testing.assert_allclose(towards_origin, between[:, :3, 2], atol=1e-9)


def test_small_turns_are_the_plain_periodic_spline():
    rotations = keys_around([0, 20, 35, 10, 0])
    times = np.linspace(0, 6, 30)
    poses = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, times)
    quaternions = Rotation.from_matrix(rotations).as_quat()  # all with w > 0: no sign to match
    quaternions[-1] = quaternions[0]
    expected = Rotation.from_quat(CubicSpline(PUBLISHED_TIMES, quaternions, bc_type="periodic")(times))
    np.testing.assert_allclose(poses[:, :3, :3], expected.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_closed_path_is_smooth_and_never_jumps(seed):
    """Also where the quaternion comes back negated: it is one rotation and must not swing through others."""
    step = 1e-3
    times = np.concatenate((np.arange(0, 6, step), [6.0]))
    rotations = random_keys(seed)
    poses = camera_path(rotations, PUBLISHED_TIMES, PUBLISHED_DISTANCES, times)
    np.testing.assert_allclose(poses[0], poses[-1], atol=1e-9)
    start, end = (angle_between(poses[i][:3, :3], poses[i + 1][:3, :3]) for i in (0, -2))
    assert start == pytest.approx(end, rel=0.05, abs=1e-3), "the speed where the path closes"


def test_full_turn_keeps_turning_one_way():
    # A whole turn in quarters: the quaternion comes back as its negative.
    rotations = keys_around([0, 90, 180, 270, 360])
    poses = camera_path(rotations, [0, 1, 2, 3, 4], [4.0] * 5, np.linspace(0, 4, 41))
    steps = [angle_between(a[:3, :3], b[:3, :3]) for a, b in zip(poses, poses[1:], strict=False)]
    np.testing.assert_allclose(steps, 9.0, rtol=0.05)


def test_stored_sign_of_a_key_changes_nothing():
    """Rotations beyond a half turn have w < 0 before their sign is chosen; the path must not notice."""
    near_half_turn = keys_around([170, 178, 186, 175, 170])
    poses = camera_path(near_half_turn, PUBLISHED_TIMES, PUBLISHED_DISTANCES, np.linspace(0, 6, 61))
    steps = [angle_between(a[:3, :3], b[:3, :3]) for a, b in zip(poses, poses[1:], strict=False)]
    assert max(steps) < 4


def test_open_path_ends_where_it_was_told():
    rotations = keys_around([0, 40, 90])
    poses = camera_path(rotations, [0, 1, 3], [3.0, 4.0, 5.0], np.array([0.0, 3.0]))
    np.testing.assert_allclose(poses[:, :3, :3], rotations[[0, 2]], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), [3, 5])


def test_default_keys_are_the_published_ones():
    keys = path_keys(49)
    assert (keys.views, keys.times, keys.distances) == (PUBLISHED_VIEWS, PUBLISHED_TIMES, PUBLISHED_DISTANCES)


@pytest.mark.parametrize(
    "num_views, expected", [(24, (0, 6, 12, 18, 0)), (34, (0, 8, 17, 26, 0)), (1, (0,) * 5)]
)
def test_fewer_views_are_spread_over_the_scene(num_views, expected):
    assert path_keys(num_views).views == expected


def test_given_keys_are_completed():
    keys = path_keys(10, views=[1, 5, 1])
    assert keys.times == (0.0, 1.0, 2.0) and keys.distances == (4.2, 4.2, 4.2)
    assert path_keys(12, times=[0, 5, 6, 7]).views == (0, 4, 8, 0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"views": [0, 60]}, "no view 60; the scene has views 0 to 48"),
        ({"views": [0, 1], "times": [0, 1, 2]}, "2 --key_views, 3 --key_times"),
        ({"views": [3]}, "at least 2"),
        ({"times": [0, 2, 1]}, "increasing"),
        ({"distances": [4, -1, 4]}, "positive"),
    ],
)
def test_keys_that_do_not_fit_are_named(given, message):
    with pytest.raises(InputError, match=message):
        path_keys(49, **given)


def loaded(num_features):
    model = ball.BallModel({"feature_vector_size": num_features}).eval()
    return LoadedModel(model, 0, None, 1.0, CPU)


def test_composition_takes_each_part_from_its_model():
    geometry, appearance = loaded(4), loaded(4)
    with torch.no_grad():
        geometry.model.implicit_network.radius.fill_(0.3)
        appearance.model.rendering_network.rgb.fill_(0.25)
    joined = compose(geometry, appearance)
    assert joined.implicit_network is geometry.model.implicit_network
    assert joined.rendering_network is appearance.model.rendering_network
    assert geometry.model.rendering_network is not appearance.model.rendering_network, "the parts stay whole"
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    inputs = {
        "uv": torch.tensor([[[15.0, 12.0]]]),
        "pose": torch.tensor(ball.unit_poses()[:1]).float(),
        "intrinsics": intrinsics[None],
        "object_mask": torch.ones(1, 1, dtype=torch.bool),
    }
    with torch.no_grad():
        out = joined(inputs)
    assert out["points"].norm() == pytest.approx(0.3, abs=1e-5)
    assert (out["rgb_values"] == 0.25).all()


def test_feature_sizes_that_differ_are_named():
    with pytest.raises(
        InputError, match="gives 4 features but the appearance's takes 2.*feature_vector_size"
    ):
        compose(loaded(4), loaded(2))


def test_resized_view_keeps_its_field_of_view():
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor([[40.0, 0.5, 15.2], [0, 42.0, 11.7], [0, 0, 1]])
    small = resized_intrinsics(intrinsics, (24, 32), (12, 8))
    # The image's corners are half a pixel outside the outermost pixels' centres, in either size.
    for old, new in (((-0.5, -0.5), (-0.5, -0.5)), ((31.5, 23.5), (7.5, 11.5))):
        rays = [
            pixel_rays(torch.tensor([[uv]]), torch.eye(4)[None], k[None])[0]
            for uv, k in ((old, intrinsics), (new, small))
        ]
        torch.testing.assert_close(*rays)


def frames(count=5, size=(11, 13)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(count)]


def test_gif_holds_every_frame(tmp_path):
    video.write_video(frames(), tmp_path / "turn.gif", 10)
    film = iio.imread(tmp_path / "turn.gif", index=None)
    assert film.shape == (5, 11, 13, 3)
    assert iio.immeta(tmp_path / "turn.gif")["loop"] == 0


def test_mp4_holds_every_frame(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="extra idr[video] is not installed")
    video.write_video(frames(size=(63, 65)), tmp_path / "turn.mp4", 10)
    assert len(iio.imread(tmp_path / "turn.mp4", index=None)) == 5


def test_video_that_cannot_be_written_is_said_before_rendering(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="ending in .gif or .mp4"):
        video.check_video_path(tmp_path / "turn.avi")
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'idr\[video\]'"):
        video.check_video_path(tmp_path / "turn.mp4")
    video.check_video_path(tmp_path / "turn.gif")
