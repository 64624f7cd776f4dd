"""Evaluation of a closed-form network: every reported number has an exact value."""

from __future__ import annotations

import json
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from tests.evaluation import ball

from idr.conf.files import load_conf
from idr.errors import InputError
from idr.evaluation.reconstruction import (
    measure_cameras,
    write_renderings,
    write_surface,
)
from idr.evaluation.results import RenderingScores, ViewScore, results_record, write_results
from idr.rendering import RenderedImage
from idr.runs import Run
from idr.runs.exposure import fit_exposure

CPU = torch.device("cpu")
DRIFT = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix()
DRIFT_SCALE, DRIFT_SHIFT = 0.8, np.array([0.1, 0.05, -0.2])


def open_ball(tmp_path, holdout=(), extra_mask_pixels=0, **run):
    data_root = ball.write_scene(tmp_path, extra_mask_pixels)
    folder = ball.write_run(tmp_path / "exps", **run)
    conf = load_conf(ball.conf_text(holdout))
    opened = Run(conf, folder, device=CPU, scan_id=3, data_root=str(data_root))
    opened.read_scene()
    return opened


def drifted_poses(holdout=()):
    """Trained cameras in a frame turned, shrunk and moved away from the scene's, as (B, 7)."""
    poses = ball.unit_poses()[[i for i in range(ball.NUM_VIEWS) if i not in holdout]]
    rotations = DRIFT @ poses[:, :3, :3]
    centers = DRIFT_SCALE * poses[:, :3, 3] @ DRIFT.T + DRIFT_SHIFT
    xyzw = Rotation.from_matrix(rotations).as_quat()
    return np.concatenate((2.0 * xyzw[:, [3, 0, 1, 2]], centers), axis=1).astype(np.float32)


def open_drifted(tmp_path, holdout=()):
    """A network that was trained along with its cameras and lives in their drifted frame."""
    radius, center = DRIFT_SCALE * ball.RADIUS, DRIFT_SHIFT.tolist()
    return open_ball(tmp_path, holdout, poses=drifted_poses(holdout), radius=radius, center=center)


def assert_ball_in_world(mesh, tolerance):
    distance = np.linalg.norm(mesh.vertices - ball.OFFSET, axis=1)
    np.testing.assert_allclose(distance, ball.SCALE * ball.RADIUS, atol=tolerance)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * (ball.SCALE * ball.RADIUS) ** 3, rel=0.02)


@pytest.mark.parametrize("uniform", [False, True])
def test_mesh_is_in_world_coordinates(tmp_path, uniform):
    opened = open_ball(tmp_path)
    result = write_surface(opened, tmp_path / "out", 40, uniform, chunk_points=5000)
    assert result.path == tmp_path / "out" / "surface_world_coordinates_7.ply"
    assert result.num_components == 1 and result.dropped_area == 0
    assert_ball_in_world(trimesh.load(result.path, process=False), tolerance=0.3)


def test_network_without_surface_gives_no_mesh(tmp_path):
    opened = open_ball(tmp_path, radius=-1.0)
    for uniform in (False, True):
        assert write_surface(opened, tmp_path / "out", 20, uniform, 5000) is None
    assert not (tmp_path / "out").exists()
    scores = write_renderings(opened, tmp_path / "out", 500)  # and rendering goes on: all white
    assert scores.iou_mean == 0
    white = -20 * np.log10(1 - ball.PHOTO)
    np.testing.assert_allclose([view.psnr for view in scores.views], white, atol=1e-4)


def test_psnr_and_iou_have_their_exact_values(tmp_path):
    opened = open_ball(tmp_path, extra_mask_pixels=9)
    scores = write_renderings(opened, tmp_path / "out", chunk_pixels=100)
    psnr = -20 * np.log10(ball.PHOTO - ball.GRAY)
    np.testing.assert_allclose([view.psnr for view in scores.views[1:]], psnr, atol=1e-3)
    assert all(view.iou == 1 for view in scores.views[1:])
    # View 0: nine masked pixels that are missed count as white against the photograph's black.
    inside = ball.exact_hit(ball.unit_poses()[0]).sum()
    mean_square = (inside * (ball.PHOTO - ball.GRAY) ** 2 + 9 * 1.0) / (inside + 9)
    assert scores.views[0].psnr == pytest.approx(-10 * np.log10(mean_square), abs=1e-3)
    assert scores.views[0].iou == pytest.approx(inside / (inside + 9))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"eval_{i:03d}.png" for i in range(6)]


def test_held_out_views_are_separate_and_keep_their_numbers(tmp_path):
    opened = open_ball(tmp_path, holdout=(1, 4))
    train = write_renderings(opened, tmp_path / "out", 500)
    held_out = write_renderings(opened, tmp_path / "out", 500, held_out=True)
    assert [view.number for view in train.views] == [0, 2, 3, 5]
    assert [view.number for view in held_out.views] == [1, 4]
    assert all(view.iou == 1 for view in train.views + held_out.views)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {f"eval_{i:03d}.png" for i in (0, 2, 3, 5)} | {"heldout_001.png", "heldout_004.png"}


def test_trained_cameras_align_mesh_renderings_and_held_out_views(tmp_path):
    opened = open_drifted(tmp_path, holdout=(2,))
    np.testing.assert_allclose(opened.alignment.scale, ball.SCALE / DRIFT_SCALE, rtol=1e-5)
    np.testing.assert_allclose(opened.alignment.rotation, DRIFT.T, atol=1e-5)
    result = write_surface(opened, tmp_path / "out", 40, False, 5000)
    assert_ball_in_world(result.mesh, tolerance=0.3)
    for held_out in (False, True):
        scores = write_renderings(opened, tmp_path / "out", 500, held_out=held_out)
        # float32 poses: a pixel on the silhouette may fall to the other side.
        assert min(view.iou for view in scores.views) > 0.98
    errors = measure_cameras(opened)
    assert len(errors.translation) == ball.NUM_VIEWS - 1
    np.testing.assert_allclose(errors.rotation_degrees, 0, atol=1e-3)
    np.testing.assert_allclose(errors.translation, 0, atol=1e-2)


def test_camera_errors_need_trained_cameras(tmp_path):
    with pytest.raises(InputError, match="--eval_cameras.*no trained cameras.*--train_cameras"):
        measure_cameras(open_ball(tmp_path))


def test_cameras_of_another_scene_are_refused(tmp_path):
    with pytest.raises(InputError, match="6 trained cameras but the scene has 5 training images"):
        open_ball(tmp_path, holdout=(0,), poses=drifted_poses())


def test_result_lines_have_the_published_wording():
    scores = RenderingScores((ViewScore(0, 22.74, 0.9), ViewScore(3, 25.14, 0.8)))
    assert scores.lines(65)[0] == "RENDERING EVALUATION 65: psnr mean = 23.94 ; psnr std = 1.20"
    assert scores.lines(65)[1] == "MASK EVALUATION 65: iou mean = 0.8500 ; iou min = 0.8000 (image 3)"
    assert scores.lines(None, held_out=True)[0].startswith(
        "RENDERING EVALUATION HELD-OUT 0: psnr mean = 23.94 ;"
    )


def test_learned_exposures_are_applied_and_held_out_ones_fitted(tmp_path):
    """The photographs are 0.6, the network's color is 0.4: gain 1.25 and offset 0.1 map one to the other."""
    exposures = np.zeros((2, ball.NUM_VIEWS - 2, 3))
    exposures[0], exposures[1] = np.log(1.25), 0.1
    exposures[1, 1] = 0.05
    opened = open_ball(tmp_path, holdout=(1, 4), exposures=exposures)
    train = write_renderings(opened, tmp_path / "out", 500)
    exact = [view.psnr for view in train.views]
    assert exact[1] == pytest.approx(-20 * np.log10(0.05), abs=1e-3)
    assert min(exact[0], *exact[2:]) > 100
    held_out = write_renderings(opened, tmp_path / "out", 500, held_out=True)
    assert min(view.psnr for view in held_out.views) > 100
    assert (train.exposure, held_out.exposure) == ("learned", "fitted")
    assert held_out.lines(3, held_out=True)[0].endswith(" ; exposure fitted per view")
    record = results_record(None, None, {"rendering_held_out": held_out})
    assert record["rendering_held_out"]["exposure"] == "fitted per view"
    for path in (tmp_path / "out").iterdir():  # the files keep the scene's color
        assert set(np.unique(iio.imread(path))) == {round(ball.GRAY * 255), 255}


def test_exposures_of_another_number_of_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="exposures of 6 images but the scene has 5 training images"):
        open_ball(tmp_path, holdout=(0,), exposures=np.zeros((2, 6, 3)))


def rendered_image(seed, hit_share=0.8):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(9, 11, 3, generator=generator) * 2 - 1
    hit = torch.rand(9, 11, generator=generator) < hit_share
    none = torch.zeros(9, 11)
    return RenderedImage(rgb, hit, torch.zeros(9, 11, 3), none, none)


def test_the_fit_is_the_least_squares_solution():
    image, mask = rendered_image(0), torch.rand(9, 11, generator=torch.Generator().manual_seed(1)) < 0.7
    photo = torch.rand(9, 11, 3, generator=torch.Generator().manual_seed(2))
    found = fit_exposure(image, photo, mask)
    fitted = (image.hit & mask).numpy()
    for channel in range(3):
        x, y = image.rgb01.numpy()[fitted, channel], photo.numpy()[fitted, channel]
        expected, *_ = np.linalg.lstsq(np.stack((x, np.ones_like(x)), axis=1), y, rcond=None)
        np.testing.assert_allclose((found.gain[channel], found.offset[channel]), expected, atol=1e-5)


def test_the_fit_of_one_color_or_of_no_pixel_is_defined():
    image, photo = rendered_image(0), torch.full((9, 11, 3), 0.5)
    nothing = fit_exposure(image, photo, torch.zeros(9, 11, dtype=torch.bool))
    assert torch.equal(nothing.gain, torch.ones(3)) and torch.equal(nothing.offset, torch.zeros(3))
    plain = replace(image, rgb=torch.zeros(9, 11, 3))
    fit = fit_exposure(plain, photo + 0.2, torch.ones(9, 11, dtype=torch.bool))
    shown = fit.apply(plain.rgb01, plain.hit)
    torch.testing.assert_close(shown[image.hit], torch.full_like(shown, 0.7)[image.hit])
    assert (shown[~image.hit] == 1).all()
    half = fit.apply(torch.full((1, 1, 3), 0.75), torch.full((1, 1), 0.5))  # half white, half 0.5
    torch.testing.assert_close(half, torch.full((1, 1, 3), 0.85))


def test_infinite_and_nan_scores_are_null_in_json(tmp_path):
    scores = RenderingScores((ViewScore(0, float("inf"), 1.0), ViewScore(1, 20.0, 0.5)))
    path = write_results(results_record(None, None, {"rendering": scores}), tmp_path)
    record = json.loads(path.read_text())["rendering"]
    assert record["psnr_mean"] is None and record["psnr_std"] is None
    assert record["views"][1] == {
        "image": 1, "psnr": 20.0, "iou": 0.5, "ssim": None, "lpips": None,
    }  # fmt: skip
