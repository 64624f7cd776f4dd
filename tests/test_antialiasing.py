"""Several rays per pixel at edges, against N x N rays everywhere on exact spheres."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, normalize

from idr.geometry.cameras import pixel_rays, resized_intrinsics
from idr.rendering import EdgeRule, render_antialiased, render_image

HEIGHT, WIDTH, FOCAL = 60, 80, 120.0
DISTANCE = 3.0
POSE = torch.eye(4)
POSE[2, 3] = -DISTANCE
INTRINSICS = torch.tensor([[FOCAL, 0, 38.3, 0], [0, FOCAL, 29.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
RADIUS = 0.6
ONE = [((0.0, 0.0, 0.0), RADIUS)]
TWO = [*ONE, ((0.25, 0.1, -0.7), 0.25)]  # the second one in front of the first
OFF = EdgeRule(color=math.inf, depth=math.inf, normal_degrees=180.0)


class Spheres:
    """Spheres traced in closed form, shaded by their normals if `shaded`; the right half darker by `step`."""

    def __init__(self, spheres, shaded=True, step=0.0):
        self.spheres, self.shaded, self.step = spheres, shaded, step
        self.calls = []

    def __call__(self, inputs):
        self.calls.append(inputs["uv"].shape[1])
        directions, centers = pixel_rays(inputs["uv"], inputs["pose"], inputs["intrinsics"])
        v, c = directions[0], centers[0]
        depth = torch.full((len(v),), torch.inf)
        normals = torch.zeros_like(v)
        for center, radius in self.spheres:
            away = c - torch.tensor(center)
            along = v @ away
            under_root = along**2 - (away @ away - radius**2)
            own = torch.where(under_root > 0, -along - under_root.clamp_min(0).sqrt(), torch.inf)
            nearer = own < depth
            depth = torch.where(nearer, own, depth)
            own_normals = normalize(away + own.nan_to_num(posinf=0.0)[:, None] * v, dim=1)
            normals = torch.where(nearer[:, None], own_normals, normals)
        hit = depth.isfinite()
        points = c + depth.nan_to_num(posinf=1.0)[:, None] * v
        rgb = 0.4 * normals if self.shaded else torch.zeros_like(normals)
        rgb = rgb - self.step * (points[:, :1] > 0.0)
        return {
            "points": points,
            "rgb_values": rgb,  # the renderer replaces those without a hit
            "sdf_output": torch.zeros(len(v), 1),
            "network_object_mask": hit,
        }


def antialiased(scene, supersample, **options):
    return render_antialiased(scene, INTRINSICS, POSE, (HEIGHT, WIDTH), supersample, **options)


def brute_force(scene, supersample):
    """Colors in [0, 1] and coverage: the means of an image N times as large."""
    size = HEIGHT, WIDTH
    large = (supersample * HEIGHT, supersample * WIDTH)
    image = render_image(scene, resized_intrinsics(INTRINSICS, size, large), POSE, large)
    means = torch.cat((image.rgb01, image.hit[..., None].float()), dim=-1).permute(2, 0, 1)
    means = avg_pool2d(means, supersample).permute(1, 2, 0)
    return means[..., :3], means[..., 3]


@pytest.mark.parametrize("supersample", [2, 3, 5])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_edges_are_those_of_brute_force(supersample, step):
    scene = Spheres(TWO, step=step)
    image = antialiased(scene, supersample)
    rgb, coverage = brute_force(scene, supersample)
    # The larger image's K is rounded differently: a ray within 1e-5 pixels of an edge may change sides.
    torch.testing.assert_close(image.coverage, coverage, atol=1e-6, rtol=0)
    # Elsewhere the colors of a 3 x 3 neighborhood differ by at most the rule's 0.15, and those within a
    # pixel by less; smooth shading is nearly linear there.
    assert (image.rgb01 - rgb).abs().max() < 0.01
    assert (image.centers.rgb01 - rgb).abs().max() > 0.2  # one ray per pixel is far from it


def test_all_pixels_as_edges_are_brute_force():
    scene = Spheres(TWO, step=0.5)
    image = antialiased(scene, 3, rule=replace(OFF, color=-1.0))
    rgb, _ = brute_force(scene, 3)
    torch.testing.assert_close(image.rgb01, rgb, atol=1e-5, rtol=0)


def test_one_ray_per_pixel_has_the_bits_of_the_plain_renderer():
    scene, plain = Spheres(TWO, step=0.5), Spheres(TWO, step=0.5)
    image = antialiased(scene, 1, chunk_pixels=700)
    expected = render_image(plain, INTRINSICS, POSE, (HEIGHT, WIDTH), chunk_pixels=700)
    assert scene.calls == plain.calls
    for name in ("rgb", "hit", "points", "depth", "sdf"):
        assert torch.equal(getattr(image.centers, name), getattr(expected, name))
    assert torch.equal(image.rgb, expected.rgb) and torch.equal(image.rgb01, expected.rgb01)
    assert torch.equal(image.coverage, expected.hit.float())


@pytest.mark.parametrize("supersample", [2, 4])
def test_a_smooth_scene_takes_more_rays_at_its_silhouette_only(supersample):
    scene = Spheres(ONE)
    image = antialiased(scene, supersample)
    edges = EdgeRule().edges(image.centers, FOCAL)
    disc = FOCAL * math.tan(math.asin(RADIUS / DISTANCE))  # its radius in pixels
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    from_rim = np.hypot(columns - 38.3, rows - 29.1)[edges.numpy()] - disc
    # A neighborhood reaches sqrt(2) pixels, and within a pixel of the rim the normals turn fast.
    assert np.abs(from_rim).max() < 2.5
    assert edges.sum() < 3.5 * 2 * math.pi * disc
    assert sum(scene.calls) == HEIGHT * WIDTH + supersample**2 * int(edges.sum())


@pytest.mark.parametrize("chunk_pixels", [1, 7, 500])
def test_chunks_bound_the_rays_of_a_call_and_change_nothing(chunk_pixels):
    size, intrinsics = (12, 16), resized_intrinsics(INTRINSICS, (HEIGHT, WIDTH), (12, 16))
    scene = Spheres(ONE, step=0.5)
    image = render_antialiased(scene, intrinsics, POSE, size, 3, chunk_pixels)
    assert max(scene.calls) <= chunk_pixels
    whole = render_antialiased(scene, intrinsics, POSE, size, 3)
    torch.testing.assert_close(image.rgb, whole.rgb, atol=1e-5, rtol=0)
    torch.testing.assert_close(image.coverage, whole.coverage)


def test_an_edge_blends_with_the_background_by_its_coverage():
    image = antialiased(Spheres(ONE, shaded=False), 4)  # mid-gray on white
    torch.testing.assert_close(
        image.rgb01, (1.0 - 0.5 * image.coverage)[..., None].expand(-1, -1, 3), atol=1e-6, rtol=0
    )
    assert ((image.coverage > 0) & (image.coverage < 1)).any()
    # The disc's area is far more exact than that of whole pixels.
    disc = FOCAL * math.tan(math.asin(RADIUS / DISTANCE))
    assert float(image.coverage.sum()) == pytest.approx(math.pi * disc**2, rel=2e-3)


def edges_by(scene, **thresholds):
    image = render_image(scene, INTRINSICS, POSE, (HEIGHT, WIDTH))
    silhouette = OFF.edges(image, FOCAL)
    return replace(OFF, **thresholds).edges(image, FOCAL) & ~silhouette, image


def test_each_threshold_finds_its_own_kind_of_edge():
    overlap = 38.3 + FOCAL * 0.25 / (DISTANCE - 0.7)  # column of the nearer sphere's center
    for name, value in (("depth", 8.0), ("normal_degrees", 30.0)):
        found, image = edges_by(Spheres(TWO, shaded=False), **{name: value})
        smooth, _ = edges_by(Spheres(ONE, shaded=False), **{name: value})
        assert smooth.sum() < 0.2 * found.sum()  # a lone sphere has its rim only
        rows, columns = found.nonzero().T
        near = (columns - overlap).abs() < 20
        assert near.float().mean() > 0.8 and image.hit[rows, columns].all()
    found, _ = edges_by(Spheres(ONE, shaded=False, step=0.5), color=0.15)
    assert set(found.nonzero()[:, 1].tolist()) == {38, 39}  # the two columns beside x = 0
    assert not edges_by(Spheres(ONE, shaded=False, step=0.2), color=0.15)[0].any()  # 0.1 in [0, 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_smallest_images(size):
    image = render_antialiased(Spheres(TWO), INTRINSICS, POSE, size, 2)
    assert image.rgb.shape == (*size, 3) and image.coverage.shape == size


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="supersample = 0: expected at least 1"):
        antialiased(Spheres(ONE), 0)
    with pytest.raises(ValueError, match="chunk_pixels = 0"):
        antialiased(Spheres(ONE), 2, chunk_pixels=0)
