"""Keys of the published path, composed models, films."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tests.evaluation import ball

from idr.errors import InputError
from idr.evaluation import video
from idr.evaluation.disentanglement import (
    PUBLISHED_DISTANCES,
    PUBLISHED_TIMES,
    PUBLISHED_VIEWS,
    compose,
    path_keys,
)

CPU = torch.device("cpu")


def test_default_keys_are_the_published_ones():
    keys = path_keys(49)
    assert (keys.views, keys.times, keys.distances) == (PUBLISHED_VIEWS, PUBLISHED_TIMES, PUBLISHED_DISTANCES)


@pytest.mark.parametrize(
    "num_views, expected", [(24, (0, 6, 12, 18, 0)), (34, (0, 8, 17, 26, 0)), (1, (0,) * 5)]
)
def test_fewer_views_are_spread_over_the_scene(num_views, expected):
    assert path_keys(num_views).views == expected


def test_partial_keys_are_completed():
    keys = path_keys(10, views=[1, 5, 1])
    assert keys.times == (0.0, 1.0, 2.0) and keys.distances == (4.2, 4.2, 4.2)
    assert path_keys(12, times=[0, 5, 6, 7]).views == (0, 4, 8, 0)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"views": [0, 60]}, "no view 60; the scene has views 0 to 48"),
        ({"views": [0, 1], "times": [0, 1, 2]}, "2 --key_views, 3 --key_times"),
        ({"views": [3]}, "at least 2"),
        ({"times": [0, 2, 1]}, "increasing"),
        ({"distances": [4, -1, 4]}, "positive"),
    ],
)
def test_inconsistent_keys_are_refused(keys, message):
    with pytest.raises(InputError, match=message):
        path_keys(49, **keys)


def network(num_features):
    return ball.BallModel({"feature_vector_size": num_features}).eval()


def test_composition_joins_the_parts_of_two_models():
    geometry, appearance = network(4), network(4)
    with torch.no_grad():
        geometry.implicit_network.radius.fill_(0.3)
        appearance.rendering_network.rgb.fill_(0.25)
    joined = compose(geometry, appearance, CPU)
    assert joined.implicit_network is geometry.implicit_network
    assert joined.rendering_network is appearance.rendering_network
    assert geometry.rendering_network is not appearance.rendering_network, "the inputs are unchanged"
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


def test_different_feature_sizes_are_refused():
    with pytest.raises(
        InputError, match="gives 4 features but the appearance's takes 2.*feature_vector_size"
    ):
        compose(network(4), network(2), CPU)


def frames(count=5, size=(11, 13)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(count)]


def test_gif_holds_every_frame(tmp_path):
    video.write_video(frames(), tmp_path / "turn.gif", 10)
    film = iio.imread(tmp_path / "turn.gif", index=None)
    assert film.shape == (5, 11, 13, 3)
    assert iio.immeta(tmp_path / "turn.gif")["loop"] == 0


def test_mp4_holds_every_frame(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="extra idr-surface[video] is not installed")
    video.write_video(frames(size=(63, 65)), tmp_path / "turn.mp4", 10)
    assert len(iio.imread(tmp_path / "turn.mp4", index=None)) == 5


def test_invalid_video_paths_are_refused_before_rendering(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="ending in .gif or .mp4"):
        video.check_video_path(tmp_path / "turn.avi")
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'idr-surface\[video\]'"):
        video.check_video_path(tmp_path / "turn.mp4")
    video.check_video_path(tmp_path / "turn.gif")
