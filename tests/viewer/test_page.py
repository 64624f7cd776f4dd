"""The viewer's page: changing checkpoints, browser cameras, ports."""

from __future__ import annotations

import io
import math
import shutil
import socket
import threading
import time
import urllib.request
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from tests.evaluation import ball

from idr.cli import view as command
from idr.cli.view import find_watched_run
from idr.conf.files import load_conf
from idr.errors import InputError, MissingInputError
from idr.geometry.cameras import pixel_rays
from idr.runs.folders import CheckpointFolder, newest_run
from idr.viewer.checkpoints import Checkpoint, CheckpointReader, nearest
from idr.viewer.server import PageServer, free_port
from idr.viewer.space import BLUE, GRAY, browser_camera, field_of_view, fitting_field_of_view
from idr.viewer.surfaces import COLOR, PAINTS, PLAIN, coarse_to_fine, glb_of, surface_of

WAIT = 20.0


@pytest.fixture
def folder(tmp_path):
    ball.write_scene(tmp_path)
    folder = ball.write_run(tmp_path / "exps")
    conf = ball.conf_text() + f'\ndataset.scan_id = 3\ndataset.data_root = "{tmp_path / "data"}"\n'
    (folder / "runconf.conf").write_text(conf)
    return folder


@pytest.fixture
def reader(folder):
    return CheckpointReader(folder, load_conf(folder / "runconf.conf"), None, torch.device("cpu"))


def save_again(folder, epoch, radius):
    """Saves the run's network with another radius, as training would."""
    checkpoints = CheckpointFolder(folder / "checkpoints")
    parts = checkpoints.load_all()
    for part in parts.values():
        part["epoch"] = epoch
    parts["ModelParameters"]["model_state_dict"]["implicit_network.radius"].fill_(radius)
    checkpoints.save(str(epoch), epoch, 0, parts)


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_checkpoints_are_listed_in_the_order_of_saving(folder, reader):
    save_again(folder, 9, 0.3)
    save_again(folder, 8, 0.4)  # somebody went back
    assert [c.epoch for c in reader.checkpoints()] == [7, 9, 8]


def test_a_name_saved_again_is_another_checkpoint(folder, reader):
    (before,) = reader.checkpoints()
    assert float(reader.open(before, lambda: None).sdf(np.zeros(3))) == pytest.approx(-ball.RADIUS)
    save_again(folder, 7, 0.3)
    (after,) = reader.checkpoints()
    assert before != after
    assert float(reader.open(after, lambda: None).sdf(np.zeros(3))) == pytest.approx(-0.3)


def test_missing_and_damaged_checkpoints_give_a_message(folder, reader):
    (checkpoint,) = reader.checkpoints()
    file = folder / "checkpoints" / "ModelParameters" / "7.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.raises(InputError, match="damaged"):
        reader.open(checkpoint, lambda: None)
    file.unlink()
    assert [c.name for c in reader.checkpoints()] == ["latest"]  # its copy
    with pytest.raises(
        MissingInputError, match="checkpoint 7 .* does not exist; complete checkpoints there: latest"
    ):
        reader.open(checkpoint, lambda: None)


def test_nearest_checkpoint():
    found = [Checkpoint(epoch, 0, str(epoch), 0) for epoch in (0, 10, 20)]
    assert nearest(found, 4).epoch == 0 and nearest(found, 5).epoch == 10 and nearest(found, 99).epoch == 20
    assert nearest([], 3) is None


def test_steps_from_coarse_to_fine():
    assert coarse_to_fine(32, 96) == [32, 96] and coarse_to_fine(32, 128) == [32, 64, 128]
    assert coarse_to_fine(64, 1024, 4) == [64, 256, 1024] and coarse_to_fine(64, 64) == [64]


def test_browser_camera_fills_the_field_of_view():
    pose = ball.look_at_origin([1.0, 2.0, 0.5], 3.0)
    camera = browser_camera([1, 0, 0, 0], pose[:3, 3], math.radians(60), 1.5, 90)
    assert camera.img_res == (60, 90)
    intrinsics, tensor_pose = camera.tensors(torch.device("cpu"))
    # The middles of the upper and the left edge: half a pixel before the first pixel's center.
    edges = torch.tensor([[[44.5, -0.5], [-0.5, 29.5]]])
    (top, left), _ = (value[0] for value in pixel_rays(edges, tensor_pose[None], intrinsics[None]))
    assert math.degrees(math.asin(-float(top[1]))) == pytest.approx(30, abs=1e-3)
    assert float(-left[0] / left[2]) == pytest.approx(1.5 * math.tan(math.radians(30)), abs=1e-5)
    assert field_of_view(intrinsics.numpy(), (60, 90)) == pytest.approx((math.radians(60), 1.5))


def test_browser_camera_turns_as_its_quaternion_says():
    half = math.sqrt(0.5)  # a quarter turn about x: what was y becomes z
    camera = browser_camera([half, half, 0, 0], [0, 0, 0], 1.0, 1.0, 9)
    np.testing.assert_allclose(np.asarray(camera.pose)[:3, 2], [0, -1, 0], atol=1e-7)


@pytest.mark.parametrize("paint", PAINTS)
def test_surface_is_the_ball(reader, paint):
    run = reader.open(reader.checkpoints()[0], lambda: None)
    surface = surface_of(run, 24, paint, lambda: None)
    assert glb_of(surface, paint)[:4] == b"glTF" and len(surface.faces) > 500
    np.testing.assert_allclose(np.linalg.norm(surface.vertices, axis=1), ball.RADIUS, atol=0.01)


def test_page_begins_with_the_networks_colors():
    assert PAINTS[0] == COLOR


def test_no_surface_is_empty(folder, reader):
    save_again(folder, 8, -1.0)
    run = reader.open(reader.checkpoints()[-1], lambda: None)
    assert surface_of(run, 24, PLAIN, lambda: None) is None


def test_page_follows_training_and_stays_responsive(folder, reader):
    page = PageServer(reader, "127.0.0.1", port=0, resolution=32, side=64)
    words = lambda: page._session._panel.status.content  # noqa: E731
    serving = threading.Thread(target=page.serve)
    serving.start()
    try:
        until(lambda: words().startswith("epoch 7: ") and "computing" not in words())
        assert "IoU 1.0000" in page._session._panel.scores.content
        save_again(folder, 9, 0.3)
        until(lambda: words().startswith("epoch 9: ") and "2 checkpoints up to epoch 9" in words())
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/", timeout=5) as answer:
            assert answer.status == 200
        shutil.rmtree(folder / "checkpoints" / "ModelParameters")
        page._session.choose_epoch(7)
        until(lambda: "checkpoint 7" in page._session._panel.trouble.content or "epoch 7" in words())
    finally:
        page.end()
        serving.join(WAIT)
        page.close()
    assert not serving.is_alive()


def test_page_waits_for_the_first_checkpoint(folder, reader):
    shutil.move(folder / "checkpoints", folder / "elsewhere")
    page = PageServer(reader, "127.0.0.1", port=0, resolution=32, side=64)
    try:
        page._session.poll()
        page._session._say()
        assert page._session._panel.status.content.startswith("waiting for the first checkpoint")
        shutil.move(folder / "elsewhere", folder / "checkpoints")
        page._session.poll()
        page._session._say()
        assert not page._session._panel.status.content.startswith("waiting")
        until(lambda: page._session._panel.status.content.startswith("epoch 7: "))
    finally:
        page.close()


class Browser:
    """A stand-in for viser's client: keeps what it downloads."""

    def __init__(self, size=(40, 30)):
        self.files, self.camera = {}, SimpleNamespace(image_width=size[0], image_height=size[1])

    def send_file_download(self, name, content, save_immediately):
        assert save_immediately
        self.files[name] = content

    def get_render(self, height, width, transport_format, timeout):
        assert transport_format == "png" and timeout < 60
        picture = np.zeros((height, width, 4), np.uint8)  # transparent but for a half-transparent red
        picture[0, 0] = (255, 0, 0, 128)
        return picture


@pytest.fixture
def page(folder):
    conf = folder / "runconf.conf"
    conf.write_text(conf.read_text() + "\ndataset.holdout = [0, 4]\n")
    reader = CheckpointReader(folder, load_conf(conf), None, torch.device("cpu"))
    page = PageServer(reader, "127.0.0.1", port=0, resolution=32, side=64)
    page._session.poll()
    yield page
    page.close()


def test_mesh_is_saved_in_world_units_once_it_is_drawn(page):
    browser = Browser()
    page._session.save_mesh(browser)
    until(lambda: browser.files)
    ((name, content),) = browser.files.items()
    assert name == "ball_3_7.glb"
    scene = trimesh.load(io.BytesIO(content), file_type="glb")
    (mesh,) = scene.geometry.values()
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx([2 * ball.RADIUS * ball.SCALE] * 3, rel=0.03)
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), ball.OFFSET, atol=0.02 * ball.SCALE)
    assert b'"COLOR_0"' in content


def test_picture_is_saved_before_white(page):
    browser = Browser()
    page._session.save_picture(browser)
    ((name, content),) = browser.files.items()
    image = iio.imread(content, extension=".png")
    assert name == "ball_3_7.png" and image.shape == (30, 40, 3)
    assert image[0, 0].tolist() == [255, 127, 127] and (image[1:] == 255).all()


def test_held_out_views_are_listed_and_compared(page):
    session = page._session
    assert session._panel.view.options == ("0 (held out)", "1", "2", "3", "4 (held out)", "5")
    assert session._panel.view.value == "0 (held out)"  # the first of the data set
    until(lambda: "View 0 (held out)" in session._panel.scores.content)
    assert "IoU 1.0000" in session._panel.scores.content  # of its own camera
    by_name = dict(zip(session._views.names, session._space._cameras, strict=True))
    np.testing.assert_allclose(by_name["4 (held out)"].position, ball.unit_poses()[4, :3, 3], atol=1e-5)
    assert tuple(by_name["4 (held out)"].color) == BLUE and tuple(by_name["5"].color) == GRAY
    session._clicked(session._views.names.index("4 (held out)"))
    until(lambda: "View 4 (held out)" in session._panel.scores.content)
    assert "IoU 1.0000" in session._panel.scores.content


def test_page_begins_at_the_first_camera(page):
    camera, first = page._server.initial_camera, ball.unit_poses()[0]
    np.testing.assert_allclose(camera.position, first[:3, 3], atol=1e-5)
    looks = (camera.look_at - camera.position) / np.linalg.norm(camera.look_at - camera.position)
    np.testing.assert_allclose(looks, first[:3, 2], atol=1e-5)
    height = 2 * math.tan(camera.fov / 2) * ball.INTRINSICS[1, 1]
    assert height == pytest.approx(ball.HEIGHT)


def test_a_narrow_window_shows_all_of_the_image():
    fov, aspect = field_of_view(ball.INTRINSICS, (ball.HEIGHT, ball.WIDTH))
    assert fitting_field_of_view(fov, aspect, 3.0) == pytest.approx(fov)
    narrow = fitting_field_of_view(fov, aspect, 0.5)
    assert 0.5 * math.tan(narrow / 2) == pytest.approx(aspect * math.tan(fov / 2))


def test_port_in_use_gives_one_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be used .*give another port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(InputError, match="expected 1 to 65535"):
        free_port("127.0.0.1", 70000)
    with pytest.raises(InputError, match="--host no.such.host.invalid"):
        free_port("no.such.host.invalid", 8080)


def test_newest_run_of_all_names(tmp_path):
    first, second = (ball.write_run(tmp_path / "exps", name) for name in ("b_1", "a_1"))
    assert newest_run(tmp_path / "exps") == second
    save_again(first, 8, 0.5)
    assert newest_run(tmp_path / "exps") == first and newest_run(tmp_path / "exps", "a_1") == second
    assert find_watched_run("latest", str(tmp_path / "exps")) == first
    assert find_watched_run("a_1", str(tmp_path / "exps")) == second
    assert find_watched_run(str(tmp_path / "exps" / "a_1"), "none") == second
    assert find_watched_run(str(second), "none") == second
    with pytest.raises(MissingInputError, match="no run c_1 in .*runs there: a_1, b_1"):
        find_watched_run("c_1", str(tmp_path / "exps"))


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--resolution", "8"), "--resolution 8: expected 32 to 512"),
        (("--port", "-1"), "expected 1 to 65535"),
        (("--port", "0", "--run", "nothing"), "no run nothing"),
    ],
)
def test_mistakes_give_one_message(folder, capsys, flags, message):
    exps = str(folder.parents[1])
    assert command.main(["--exps_folder", exps, "--device", "cpu", "--gpu", "ignore", *flags]) == 2
    assert message in capsys.readouterr().err


def test_missing_viser_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    assert command.main([]) == 2
    assert "pip install 'idr-surface[viewer]'" in capsys.readouterr().err
