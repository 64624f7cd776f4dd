"""Colors outside of images against those of the renderer, and points moved onto the surface."""

from __future__ import annotations

import numpy as np
import torch
from tests.cli.bad_input import CONF
from tests.evaluation import ball

from idr.conf.build import build_model
from idr.conf.files import load_conf
from idr.rendering import render_image
from idr.runs.shading import ShadedPoints, SurfaceShader

CPU = torch.device("cpu")


class Squared(ball.BallField):
    """The ball as half its squared distance: a zero set with slopes that are not 1."""

    def forward(self, x):
        distance = (x * x).sum(dim=1, keepdim=True) - self.radius**2
        return torch.cat((distance, x.new_zeros(len(x), self.num_features)), dim=1)

    def gradient(self, x):
        return (2 * x).unsqueeze(1)


def shader_of_ball(field):
    model = ball.BallModel({"feature_vector_size": 4})
    model.implicit_network = field(4)
    return SurfaceShader(model.requires_grad_(False).eval(), CPU)


def points_at(*radii):
    directions = torch.nn.functional.normalize(
        torch.tensor(np.random.default_rng(0).normal(size=(50, 3))), dim=1
    )
    return torch.cat([radius * directions for radius in radii]).float()


def test_points_near_the_surface_move_onto_it():
    for field in (ball.BallField, Squared):
        shaded = shader_of_ball(field).at(points_at(0.59, 0.61), max_distance=0.02)
        torch.testing.assert_close(shaded.points, points_at(0.6, 0.6), atol=1e-5, rtol=0)  # two Newton steps
        torch.testing.assert_close(shaded.normals, points_at(1, 1), atol=1e-5, rtol=0)


def test_points_far_from_the_surface_stay():
    points = points_at(0.5, 0.7)
    torch.testing.assert_close(shader_of_ball(ball.BallField).at(points, max_distance=0.02).points, points)


def test_colors_are_those_of_the_renderer(tmp_path):
    torch.manual_seed(3)
    (tmp_path / "tiny.conf").write_text(CONF)
    model = build_model(load_conf(tmp_path / "tiny.conf")).eval().requires_grad_(False)
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor(ball.INTRINSICS)
    pose = torch.tensor(ball.unit_poses()[0]).float()
    image = render_image(model, intrinsics, pose, (ball.HEIGHT, ball.WIDTH))
    points = image.points[image.hit]
    assert len(points) > 50
    shaded = ShadedPoints(model, points)
    torch.testing.assert_close(
        shaded.rgb01(5 * (pose[:3, 3] - points)), image.rgb01[image.hit], atol=1e-5, rtol=0
    )
    some = torch.tensor([7, 3, 20])
    part = shaded.rgb01(pose[:3, 3] - points[some], some)
    torch.testing.assert_close(part, image.rgb01[image.hit][some], atol=1e-5, rtol=0)
    np.testing.assert_allclose(SurfaceShader(model, CPU).normals(points).norm(dim=1), 1, atol=1e-6)
