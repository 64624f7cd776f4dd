"""``eval_disentanglement.py`` through its command line."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
from tests.evaluation import ball

import idr.conf.files
from idr.cli.disentanglement import build_parser, main


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with the ball's scene and two published-style pretrained runs: two balls, two colors."""
    monkeypatch.setattr(idr.conf.files, "project_root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    ball.write_scene(tmp_path)
    (tmp_path / "ball.conf").write_text(ball.conf_text())
    models = tmp_path / "trained_models"
    runs = (("ball_3", {"radius": 0.5}), ("ball_8", {"rgb": (0.6, -0.2, -1.0)}))
    for name, changes in runs:
        run = ball.write_run(models, name, **changes)
        run.rename(run.with_name("2020"))
    return tmp_path


def mix(root, *flags):
    fixed = ["--conf", "ball.conf", "--data_root", str(root / "data"), "--device", "cpu", "--gpu", "ignore"]
    return main([*fixed, "--geometry_id", "3", "--appearance_id", "8", "--checkpoint", "7", *flags])


def test_published_flags_and_defaults():
    arguments = vars(build_parser().parse_args([]))
    published = {
        "conf": "./confs/dtu_fixed_cameras.conf",
        "gpu": "auto",
        "geometry_id": 65,
        "appearance_id": 110,
    }
    assert {key: arguments[key] for key in published} == published
    assert arguments["checkpoint"] == "2000" and arguments["frames"] == 30


def test_default_runs_give_geometry_of_one_and_color_of_the_other(root, capsys):
    assert mix(root, "--frames", "4", "--video", "film.gif") == 0
    folder = root / "evals_disentanglement" / "ball_3_8" / "novel_views_rendering"
    assert sorted(p.name for p in folder.iterdir()) == [f"eval_{i:03d}.png" for i in range(4)]
    color = np.round((np.array([0.6, -0.2, -1.0]) + 1) / 2 * 255)
    for frame in map(iio.imread, sorted(folder.iterdir())):
        inside = (frame != 255).any(axis=2)
        np.testing.assert_array_equal(frame[inside], np.broadcast_to(color, (inside.sum(), 3)))
        # A ball of radius 0.5 at distance 3.8 to 4.2: its disc has radius about f tan(asin(r / d)).
        radius = 41 * np.tan(np.arcsin(0.5 / np.array([4.3, 3.7])))
        assert np.pi * radius[0] ** 2 * 0.85 < inside.sum() < np.pi * radius[1] ** 2 * 1.15
    # GIF writers join frames that are equal.
    assert 2 <= len(iio.imread(root / "film.gif", index=None)) <= 4


def test_own_runs_views_size_and_path(root):
    first = ball.write_run(root / "exps", "ball_3")
    (first / "runconf.conf").write_text(ball.conf_text() + "dataset.scan_id = 3\n")
    flags = ["--geometry_run", "exps/ball_3", "--appearance_run", "trained_models/ball_8/2020"]
    path = ["--key_views", "0", "2", "--key_times", "0", "1", "--key_distances", "3", "4", "--frames", "2"]
    assert mix(root, *flags, *path, "--img_res", "12", "20", "--view", "5", "--geometry_id", "99") == 0
    folder = root / "evals_disentanglement" / "ball_3_ball_8" / "novel_views_rendering"
    assert [iio.imread(p).shape for p in sorted(folder.iterdir())] == [(12, 20, 3)] * 2


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--geometry_id", "77"), "ball_77"),
        (("--geometry_run", "exps/none"), "exps/none"),
        (("--appearance_checkpoint", "9"), "9"),
        (("--key_views", "0", "17"), "no view 17; the scene has views 0 to 5"),
        (("--view", "6"), "views 0 to 5"),
        (("--frames", "0"), "--frames 0"),
        (("--fps", "0"), "--fps"),
        (("--img_res", "0", "5"), "--img_res"),
        (("--video", "film.avi"), ".gif or .mp4"),
        (("--chunk_pixels", "0"), "--chunk_pixels 0"),
    ],
)
def test_mistakes_give_one_message_and_no_results(root, capsys, flags, message):
    assert mix(root, *flags) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("error:") == 1
    assert not (root / "evals_disentanglement").exists()
