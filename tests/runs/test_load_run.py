"""`idr.load_run` against values that the published code returned for the same weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation import ball

import idr
from idr.errors import InputError, MissingInputError

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "a"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "arrays.npz"))


@pytest.fixture
def run_folder(tmp_path):
    """A run whose checkpoint the published code wrote."""
    folder = tmp_path / "exps" / "golda_1" / "2020"
    (folder / "checkpoints" / "ModelParameters").mkdir(parents=True)
    shutil.copy(GOLDEN / "checkpoint.pth", folder / "checkpoints" / "ModelParameters" / "2000.pth")
    published = (GOLDEN / "model.conf").read_text() + "\nmodel.ray_tracer.strategy = published\n"
    (folder / "runconf.conf").write_text(published)
    return folder


@pytest.fixture
def run(run_folder):
    return idr.load_run(run_folder)


def test_values_of_the_published_code(run, golden):
    x, view = golden["net.x"], golden["net.view_dirs"]
    np.testing.assert_allclose(run.sdf(x), golden["net.out"][:, 0], atol=1e-5)
    gradient = golden["net.grad"].reshape(-1, 3)
    np.testing.assert_allclose(
        run.normal(x), gradient / np.linalg.norm(gradient, axis=1, keepdims=True), atol=1e-4
    )
    np.testing.assert_allclose(run.color(x, 5 * view), (golden["net.rgb"] + 1) / 2, atol=5e-4)


def test_results_have_the_kind_and_shape_of_the_input(run, golden):
    x = golden["net.x"][:6].astype(np.float32)
    in_numpy = run.sdf(x.reshape(2, 3, 3))
    in_torch = run.sdf(torch.from_numpy(x))
    assert isinstance(in_numpy, np.ndarray) and in_numpy.shape == (2, 3)
    assert isinstance(in_torch, torch.Tensor) and not in_torch.requires_grad
    np.testing.assert_allclose(in_numpy.ravel(), in_torch, atol=1e-6)
    assert run.sdf([0.1, 0.2, 0.3]).shape == ()
    assert run.color(x, [0.0, 0.0, 1.0]).shape == (6, 3)
    assert run.normal(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        run.sdf(np.zeros(4))


def test_render_matches_the_published_view(run, golden):
    camera = idr.Camera(golden["eval0.in.intrinsics"][0], golden["eval0.in.pose"][0], (128, 160))
    image = run.render(camera, chunk_pixels=4096)
    column, row = golden["eval0.in.uv"].reshape(-1, 2).astype(int).T
    both = image.hit.numpy()[row, column] & golden["eval0.out.network_object_mask"].reshape(-1)
    assert both.sum() > 100
    expected = golden["eval0.out.rgb_values"].reshape(-1, 3)[both]
    np.testing.assert_allclose(image.rgb.numpy()[row, column][both], expected, atol=5e-4)
    three = idr.Camera(golden["eval0.in.intrinsics"][0][:3, :3], golden["eval0.in.pose"][0], (16, 16))
    assert run.render(three).rgb.shape == (16, 16, 3)


def test_mesh_lies_on_the_zero_set(run):
    mesh = run.mesh(resolution=40)
    assert len(mesh.faces) > 1000 and mesh.volume > 0
    assert np.abs(run.sdf(mesh.vertices)).max() < 5e-3
    agreement = (run.normal(mesh.vertices) * mesh.vertex_normals).sum(axis=1)
    assert np.median(agreement) > 0.95


def test_folder_of_the_name_gives_the_latest_run(run_folder):
    run = idr.load_run(run_folder.parent, checkpoint="2000", device="cpu")
    assert run.folder == run_folder and run.device == torch.device("cpu")
    assert run.epoch == torch.load(GOLDEN / "checkpoint.pth", weights_only=True)["epoch"]


def test_missing_inputs_are_named(run_folder, tmp_path):
    with pytest.raises(MissingInputError, match="no run folder"):
        idr.load_run(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="77"):
        idr.load_run(run_folder, checkpoint="77")
    (run_folder / "runconf.conf").rename(tmp_path / "other.conf")
    with pytest.raises(MissingInputError, match="runconf.conf"):
        idr.load_run(run_folder)
    assert idr.load_run(run_folder, conf=tmp_path / "other.conf").epoch >= 0


def test_training_views_and_world_frame_need_the_scene(tmp_path):
    data_root = ball.write_scene(tmp_path)
    folder = ball.write_run(tmp_path / "exps")
    (folder / "runconf.conf").write_text(ball.conf_text() + "dataset.scan_id = 3\n")
    run = idr.load_run(folder, data_root=str(data_root))
    image = run.render(2)
    np.testing.assert_array_equal(image.hit.numpy(), ball.exact_hit(ball.unit_poses()[2]))
    expected = np.diag([ball.SCALE] * 3 + [1.0])
    expected[:3, 3] = ball.OFFSET
    np.testing.assert_allclose(run.world_from_unit, expected, rtol=1e-6)
    with pytest.raises(InputError, match="view 6: the run has training views 0 to 5"):
        run.render(6)
    with pytest.raises(MissingInputError, match="no data folder"):
        idr.load_run(folder, data_root=str(tmp_path / "none")).render(0)


def test_empty_space_has_no_mesh(tmp_path):
    folder = ball.write_run(tmp_path / "exps", radius=-1.0)
    (folder / "runconf.conf").write_text(ball.conf_text())
    assert idr.load_run(folder).mesh(20) is None


def test_importing_the_package_stays_cheap():
    code = "import sys, idr; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; dir(idr)"
    source = Path(idr.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True)
    assert {"load_run", "Camera", "Run"} <= set(dir(idr))
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = idr.load_runs


def test_the_old_name_of_the_class_warns():
    with pytest.warns(DeprecationWarning, match=r"idr.LoadedRun is now idr.Run"):
        assert idr.LoadedRun is idr.Run
