"""Plots during training, of a closed-form ball."""

from __future__ import annotations

import json
import logging
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from tests.evaluation import ball

from idr.conf.files import read_block
from idr.errors import InputError
from idr.pictures.plots import (
    MAX_HITS,
    CameraView,
    PlotConfig,
    PlotView,
    choose_views,
    depth_panels,
    surface_figure,
    write_plots,
)
from idr.rendering import RenderedImage, render_image

SIZE = (ball.HEIGHT, ball.WIDTH)


def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def model():
    return ball.BallModel({"feature_vector_size": 4}).eval()


def views(count=2):
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    poses = torch.tensor(ball.unit_poses()).float()
    photo = torch.full((*SIZE, 3), ball.PHOTO)
    return [
        PlotView(intrinsics, poses[i], photo, torch.ones(*SIZE, dtype=torch.bool).flatten())
        for i in range(count)
    ]


def write(model, folder, **changes):
    config = PlotConfig(**{"resolution": 30, "chunk_pixels": 100, **changes})
    sdf = lambda x: model.implicit_network(x)[:, 0]  # noqa: E731
    return write_plots(folder, 100, model, sdf, views(), config, 1.0, generator())


def test_all_files_are_written_with_the_right_content(model, tmp_path):
    assert write(model, tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "rendering_100.png",
        "depth_100.png",
        "surface_100.ply",
        "surface_100.html",
        "plotly.min.js",
    }

    rendering = iio.imread(tmp_path / "rendering_100.png")
    assert rendering.shape == (2 * ball.HEIGHT, 2 * ball.WIDTH, 3)
    hit = np.concatenate([ball.exact_hit(pose) for pose in ball.unit_poses()[:2]], axis=1)
    ours, photos = rendering[: ball.HEIGHT], rendering[ball.HEIGHT :]
    np.testing.assert_array_equal(ours[..., 0], np.where(hit, round(ball.GRAY * 255), 255))
    assert (photos == round(ball.PHOTO * 255)).all()

    mesh = trimesh.load(tmp_path / "surface_100.ply")
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), ball.RADIUS, atol=2e-3)


def test_depth_is_scaled_per_view_with_misses_at_the_greatest_depth(model):
    images = [render_image(model, v.intrinsics, v.pose, SIZE) for v in views()]
    panels = depth_panels(images, max_depth=3.0).numpy()
    for k, image in enumerate(images):
        panel = panels[:, k * ball.WIDTH : (k + 1) * ball.WIDTH]
        depth = np.where(image.hit, image.depth, 3.0)
        np.testing.assert_allclose(panel, (depth - depth.min()) / (3.0 - depth.min()), atol=1e-6)
        assert (panel[~image.hit.numpy()] == 1).all() and panel.min() == 0


def test_depth_of_one_value_is_black():
    flat = torch.zeros(4, 5)
    image = RenderedImage(torch.ones(4, 5, 3), flat.bool(), torch.zeros(4, 5, 3), flat + torch.inf, flat)
    assert (depth_panels([image], 3.0) == 0).all()


def test_page_opens_without_network(model, tmp_path):
    write(model, tmp_path)
    page = (tmp_path / "surface_100.html").read_text()
    sources = re.findall(r'<script[^>]*src="([^"]+)"', page)
    assert sources == ["plotly.min.js"]
    assert len((tmp_path / "plotly.min.js").read_text()) > 10**6
    assert len(page) < 2 * 10**6


def test_figure_holds_surface_cameras_and_hits(model):
    mesh = trimesh.creation.icosphere(radius=0.6)
    view = views(1)[0]
    image = render_image(model, view.intrinsics, view.pose, SIZE)
    camera = CameraView.of(view.pose, image, generator())
    pose = ball.unit_poses()[0]
    np.testing.assert_allclose(camera.pose, pose, atol=1e-5)
    assert len(camera.hits) == image.hit.sum()
    figure = surface_figure(mesh, [camera], "epoch 1")
    kinds = [trace.type for trace in figure.data]
    assert kinds == ["mesh3d", "scatter3d", "scatter3d", "scatter3d"]
    surface, center, line, hits = figure.data
    np.testing.assert_allclose([*center.x, *center.y, *center.z], pose[:3, 3], atol=1e-5)
    assert len(surface.x) == len(mesh.vertices) and len(surface.i) == len(mesh.faces)
    towards = np.array([line.x[1] - line.x[0], line.y[1] - line.y[0], line.z[1] - line.z[0]])
    np.testing.assert_allclose(towards / np.linalg.norm(towards), pose[:3, 2], atol=1e-5)
    assert all(re.fullmatch(r"sdf -?\d\.\d\de[+-]\d\d", text) for text in hits.text)
    ranges = json.loads(figure.to_json())["layout"]["scene"]
    assert all(ranges[axis]["range"] == [-3, 3] for axis in ("xaxis", "yaxis", "zaxis"))


def test_hits_are_at_most_2048_and_drawn_from_the_generator(model):
    shape = (50, 60)
    image = RenderedImage(
        torch.ones(*shape, 3),
        torch.ones(shape).bool(),
        torch.rand(*shape, 3),
        torch.ones(shape),
        torch.zeros(shape),
    )
    first, again = (CameraView.of(torch.eye(4), image, generator()) for _ in range(2))
    assert first.hits.shape == (MAX_HITS, 3) and first.sdf.shape == (MAX_HITS,)
    np.testing.assert_array_equal(first.hits, again.hits)
    assert len(np.unique(first.hits, axis=0)) == MAX_HITS


def test_a_missing_surface_is_logged(model, tmp_path, caplog):
    with torch.no_grad():
        model.implicit_network.radius.fill_(-1.0)
    with caplog.at_level(logging.INFO, logger="idr.pictures.plots"):
        logging.getLogger("idr").propagate = True  # a command may have taken the log for itself
        assert not write(model, tmp_path)
    assert "no surface" in caplog.text
    assert {p.name for p in tmp_path.iterdir()} == {"rendering_100.png", "depth_100.png"}


def test_views_are_drawn_without_replacement_from_the_generator():
    config = PlotConfig(plot_nimgs=5)
    chosen = choose_views(20, config, generator())
    assert chosen == choose_views(20, config, generator())
    assert len(set(chosen)) == 5 and set(chosen) <= set(range(20))
    assert sorted(choose_views(3, config, generator())) == [0, 1, 2]
    first = {choose_views(20, config, torch.Generator().manual_seed(seed))[0] for seed in range(100)}
    assert len(first) > 15, "any view may be drawn"


def test_config_reads_the_published_block_and_refuses_the_rest():
    block = {"plot_nimgs": 1, "max_depth": 3.0, "resolution": 100}
    assert read_block(PlotConfig, block, "plot") == PlotConfig(1, 3.0, 100)
    with pytest.raises(InputError, match="plot.resoluton.*resolution"):
        read_block(PlotConfig, {"resoluton": 3}, "plot")
    with pytest.raises(InputError, match="plot_nimgs = 0"):
        read_block(PlotConfig, {"plot_nimgs": 0}, "plot")
    with pytest.raises(InputError, match="max_depth"):
        read_block(PlotConfig, {"max_depth": -1}, "plot")
