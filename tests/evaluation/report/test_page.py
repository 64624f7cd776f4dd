"""The report page of a run: content, size, missing inputs."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import torch
from tests.evaluation import ball
from tests.evaluation.test_reconstruction import drifted_poses

from idr.cli import report as command
from idr.cli.report import main, report_after_training
from idr.errors import InputError
from idr.evaluation.report import page
from idr.evaluation.report.figures import camera_paths, metric_columns, training_curves
from idr.evaluation.report.views import compare_view, error_map, reduced_camera, spread
from idr.geometry.cameras import pixel_rays
from idr.replacing import is_own_page
from idr.runs import Camera, load_run
from idr.runs.folders import CheckpointFolder

METRICS = "epoch,loss,rgb_loss,psnr\n0,2.0,0.5,10\n1,1.0,,20\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder with a scene and a conf."""
    ball.enter_project(tmp_path, monkeypatch)
    return tmp_path


def make_run(root, **options):
    folder = ball.write_run(root / "exps", **options)
    conf = ball.conf_text(holdout=(4,)) + f'\ndataset.scan_id = 3\ndataset.data_root = "{root / "data"}"\n'
    (folder / "runconf.conf").write_text(conf)
    return folder


def report(root, *flags):
    return main([*ball.COMMAND, "--data_root", str(root / "data"), "--resolution", "16", *flags])


def test_page_is_complete_and_needs_no_network(root, capsys):
    folder = make_run(root)
    (folder / "metrics.csv").write_text(METRICS)
    assert report(root, "--views", "2") == 0
    text = (folder / "report.html").read_text()
    assert f"report: {folder / 'report.html'} (" in capsys.readouterr().out
    assert len(text.encode()) < 1e6 and "plotly" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)
    # Two training views and one held-out view: photograph, rendering, error.
    assert text.count('<img src="data:image/jpeg;base64,') == 6
    assert text.count('<img src="data:image/png;base64,') == 3
    # 20 log10(1 / 0.2): the photograph is 0.2 brighter
    assert "rendering, 13.98 dB" in text and "PSNR, 2 training views (dB)</td><td>13.98" in text
    assert "<b>14.0 <small>dB</small></b>" in text and "PSNR, 1 held-out view (dB)</td><td>13.98" in text
    assert "watertight: yes, 1 component" in text and "<title>balls scan 3</title>" in text
    for heading in ("Training", "Photographs and renderings", "How it was made"):
        assert f"<h2>{heading}</h2>" in text
    assert "dataset_class" in text and torch.__version__ in text
    assert is_own_page(folder / "report.html")
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']?(https?:)?//", text)


def test_numbers_lead_from_the_first_checkpoint_to_the_shown_one(root):
    folder = make_run(root)  # 0.2 darker than the photographs
    checkpoints = CheckpointFolder(folder / "checkpoints")
    parts = checkpoints.load_all()
    parts["ModelParameters"]["epoch"] = 9
    parts["ModelParameters"]["model_state_dict"]["rendering_network.rgb"] += 0.2  # 0.1 in [0, 1]
    checkpoints.save("9", 9, 0, parts)
    page.write_report(load_run(folder, "9"), root / "p.html", page.ReportOptions(views=1, resolution=16))
    text = (root / "p.html").read_text()
    assert "<b>14.0 → 20.0 <small>dB</small></b>" in text
    assert "<td>PSNR, 1 training view (dB)</td><td>13.98</td><td>20.00</td>" in text


def test_the_title_is_that_of_the_user_and_names_stay_texts(root):
    make_run(root)
    title = "<img src=x onerror=alert(1)>"
    assert report(root, "--views", "1", "--title", title, "--out", "p.html") == 0
    text = (root / "p.html").read_text()
    assert "<img src=x" not in text and "<h1>&lt;img src=x onerror=alert(1)&gt;</h1>" in text


def test_a_scene_in_meters_has_the_size_of_its_object(root):
    folder = make_run(root)
    size = {"relative_error": 0.01, "origin": "the printed board"}
    record = json.dumps({"unit": "m", "true_size": size})
    (root / "data" / "balls" / "scan3" / "import.json").write_text(record)
    assert report(root) == 0
    text = (folder / "report.html").read_text()
    found = re.search(r"<p>Size: ([\d.]+) × ([\d.]+) × ([\d.]+) m ± 1\.00%, by the printed board\.", text)
    side = 2 * ball.RADIUS * ball.SCALE
    assert [float(text) for text in found.groups()] == pytest.approx([side] * 3, rel=0.03)


def test_missing_surface_and_metrics_are_reported(root):
    folder = make_run(root, radius=-1.0)
    assert report(root, "--views", "1", "--out", "elsewhere.html") == 0
    text = (root / "elsewhere.html").read_text()
    assert "There is no surface yet" in text and "no metrics.csv" in text
    assert not (folder / "report.html").exists()


def test_report_shows_the_paths_of_trained_cameras(root):
    poses = drifted_poses((4,))
    folder = make_run(root, poses=poses)
    checkpoints = CheckpointFolder(folder / "checkpoints")
    assert camera_paths(load_run(folder)) is None
    parts = checkpoints.load_all()
    for part in parts.values():
        part["epoch"] = 9
    parts["CamParameters"]["pose_vecs_state_dict"]["weight"][:, 4] += 0.5
    checkpoints.save("9", 9, 0, parts)
    paths = camera_paths(load_run(folder))
    assert paths.shape[:2] == (2, ball.NUM_VIEWS - 1)
    np.testing.assert_allclose(paths[1, :, :3, 3] - paths[0, :, :3, 3], [[0.5, 0, 0]] * 5, atol=1e-6)
    page.write_report(load_run(folder), root / "p.html", page.ReportOptions(views=1, resolution=16))
    text = (root / "p.html").read_text()
    scene = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])
    lines = {line["name"]: np.frombuffer(base64.b64decode(line["points"]), "<f4") for line in scene["lines"]}
    assert len(lines["cameras"]) == len(lines["given cameras, aligned"]) == 5 * 8 * 2 * 3
    way = lines["where the cameras went"].reshape(5, 2, 3)
    moved = np.linalg.norm(way[:, 1] - way[:, 0], axis=1)
    np.testing.assert_allclose(moved, moved[0], rtol=1e-4)
    assert moved[0] > 0 and "mean angle to the given cameras" in text


def test_reduced_camera_sees_through_every_nth_pixel():
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    camera = Camera(intrinsics, torch.eye(4), (ball.HEIGHT, ball.WIDTH))
    reduced, step = reduced_camera(camera, 11)
    assert step == 3 and reduced.img_res == (8, 11)
    pose = torch.eye(4)[None]
    small = torch.tensor([[[2.0, 5.0], [0.0, 0.0]]])
    expected, _ = pixel_rays(3 * small, pose, intrinsics[None])
    actual, _ = pixel_rays(small, pose, reduced.tensors(torch.device("cpu"))[0][None])
    torch.testing.assert_close(actual, expected)


def test_score_of_a_reduced_view_is_that_of_its_pixels(root):
    view = compare_view(load_run(make_run(root)), 0, 11)
    assert view.rendered.shape == view.photo.shape == (8, 11, 3) and view.step == 3
    assert view.psnr == pytest.approx(13.979, abs=0.01)


def test_supersampling_changes_the_shown_rendering_and_no_score(root):
    run = load_run(make_run(root))
    one, several = (compare_view(run, 0, 11, supersample=n) for n in (1, 3))
    assert (one.psnr, one.iou) == (several.psnr, several.iou) and torch.equal(one.error, several.error)
    gray, white = one.rendered.unique()
    assert ((several.rendered > gray + 0.05) & (several.rendered < white - 0.05)).any()  # at the silhouette


def test_error_map_colors_equal_wrong_and_disagreeing_pixels():
    photo = torch.tensor([[0.2, 0.2, 0.2, 0.2]])[..., None].expand(1, 4, 3)
    rendered = photo + torch.tensor([0.0, 0.6, 0.0, 0.0])[:, None]
    hit, mask = torch.tensor([[True, True, True, False]]), torch.tensor([[True, True, False, False]])
    equal, wrong, disagreeing, outside = error_map(rendered, photo, hit, mask)[0]
    assert equal.max() < 0.05
    assert wrong[0] > 0.9 and wrong[1] > 0.9 and wrong[2] < wrong[0]  # yellow
    torch.testing.assert_close(disagreeing, torch.tensor([0.25, 0.45, 1.0]))
    assert (outside == 1).all()


def test_empty_cells_are_gaps_in_the_curves(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    metrics = metric_columns(tmp_path / "metrics.csv")
    np.testing.assert_array_equal(metrics["rgb_loss"], [0.5, np.nan])
    loss, psnr = training_curves(metrics)
    assert [line.name for line in loss.lines] == ["weighted sum", "rgb loss"]
    assert [(line.first, line.last) for line in psnr.lines] == [("10", "20")]
    assert "L" in loss.lines[0].path and "L" not in loss.lines[1].path
    assert metric_columns(tmp_path / "none.csv") == {} and training_curves({}) == []


def test_all_terms_of_the_loss_have_curves():
    metrics = {name: np.ones(2) for name in ("epoch", "loss", "mask_loss", "patch_loss", "alpha")}
    (loss,) = training_curves(metrics)
    assert [line.name for line in loss.lines] == ["weighted sum", "mask loss", "patch loss"]


def test_spread_includes_both_ends():
    assert spread(49, 4) == [0, 16, 32, 48] and spread(2, 6) == [0, 1] and spread(0, 6) == []
    assert spread(5, 1) == [0]


def test_a_page_that_is_too_large_is_refused_and_the_old_one_stays(root, monkeypatch):
    folder = make_run(root)
    (folder / "report.html").write_text("old")
    monkeypatch.setattr(page, "MAX_BYTES", 20_000)
    with pytest.raises(InputError, match=r"would weigh .* MB, expected at most .*: lower --resolution"):
        page.write_report(load_run(folder), folder / "report.html", page.ReportOptions(1, 32, 16))
    assert (folder / "report.html").read_text() == "old"


def test_report_that_fails_after_training_is_a_warning(root, caplog, monkeypatch):
    monkeypatch.setattr(command.log.parent, "propagate", True)
    folder = make_run(root)
    (folder / "report.html").mkdir()
    report_after_training(folder, torch.device("cpu"))
    assert "no report" in caplog.text and "training itself is saved" in caplog.text


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--checkpoint", "100"), "100"),
        (("--scan_id", "9"), "ball_9"),
        (("--views", "0"), "--views 0: expected 1 or more"),
        (("--supersample", "0"), "--supersample 0: expected 1 to 8"),
        (("--supersample", "9"), "--supersample 9: expected 1 to 8"),
    ],
)
def test_mistakes_give_one_message(root, capsys, flags, message):
    make_run(root)
    try:
        status = report(root, *flags)
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
