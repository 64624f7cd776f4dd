"""Photometric consistency of patches, against a slow oracle and on surfaces with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn import functional

from idr.model.patches import (
    LUMINANCE,
    PatchShape,
    Photographs,
    View,
    consistency_loss,
    patch_costs,
    plain_patch_costs,
    plane_homographies,
)
from idr.model.twins import find_kernel

HEIGHT, WIDTH = 60, 80
SHAPE = PatchShape(size=7, stride=1.5)
NUM_VIEWS = 5
RADIUS = 0.5


def cameras() -> View:
    """Cameras around +z that look at the origin, the first from above."""
    centers = torch.tensor(
        [[0.0, 0.0, 2.2], [0.7, 0.1, 2.1], [-0.6, 0.3, 2.2], [0.1, 0.8, 2.0], [0.2, -0.7, 2.3]]
    ).double()
    forward = -functional.normalize(centers, dim=1)
    right = functional.normalize(torch.linalg.cross(torch.tensor([[0.0, 1.0, 0.0]]).double(), forward), dim=1)
    rotation = torch.stack((right, torch.linalg.cross(forward, right), forward), dim=2)
    intrinsics = torch.tensor([[90.0, 0.5, 39.0], [0.0, 92.0, 30.5], [0.0, 0.0, 1.0]]).double()
    return View(intrinsics.expand(NUM_VIEWS, 3, 3), rotation, centers)


def rays(view: View, index: int, pixels: Tensor) -> Tensor:
    """Unit directions (N, 3) through pixels (N, 2)."""
    homogeneous = torch.cat((pixels, torch.ones_like(pixels[:, :1])), dim=1)
    local = homogeneous @ torch.linalg.inv(view.intrinsics[index]).T
    return functional.normalize(local @ view.rotation[index].T, dim=1)


def hit_plane(origin: Tensor, directions: Tensor) -> Tensor:
    """Points on the plane z = 0.1 x."""
    normal = torch.tensor([-0.1, 0.0, 1.0]).double()
    return origin - directions * ((origin @ normal) / (directions @ normal)).unsqueeze(1)


def hit_sphere(origin: Tensor, directions: Tensor) -> Tensor:
    """First points on the sphere; for rays that miss it, those nearest to it."""
    along = -(directions @ origin)
    beside = (origin @ origin) - along**2
    depth = along - (RADIUS**2 - beside).clamp(min=0).sqrt()
    return origin + depth.unsqueeze(1) * directions


def texture(points: Tensor) -> Tensor:
    """Smooth colors (N, 3) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    waves = 14 * torch.randn(3, 12, generator=generator).double()
    mixed = torch.sin(points @ waves) @ torch.randn(12, 3, generator=generator).double()
    return torch.sigmoid(mixed)


def photographs(view: View, hit) -> Photographs:
    """Images of a textured surface that fills them."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    pixels = torch.stack((columns, rows), dim=-1).reshape(-1, 2).double()
    images = [texture(hit(view.center[b], rays(view, b, pixels))) for b in range(NUM_VIEWS)]
    return whole((255 * torch.stack(images)).round().to(torch.uint8).reshape(-1, HEIGHT, WIDTH, 3))


def whole(rgb: Tensor) -> Photographs:
    """Images in which everything is object."""
    return Photographs(rgb, torch.ones(rgb.shape[:3], dtype=torch.bool))


def surface(kind: str) -> tuple[View, Photographs, Tensor, Tensor, Tensor]:
    """Cameras, images, and pixels (N, 2), points and normals (N, 3) in the first of them."""
    view, hit = cameras(), {"plane": hit_plane, "sphere": hit_sphere}[kind]
    center = torch.tensor([39.0, 30.5]).double()
    pixels = center + 12 * (2 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1)).double() - 1)
    points = hit(view.center[0], rays(view, 0, pixels))
    normals = points if kind == "sphere" else torch.tensor([[-0.1, 0.0, 1.0]]).double().expand(40, 3)
    return view, photographs(view, hit), pixels, points, normals


def views_of(view: View, index: Tensor) -> View:
    return View(view.intrinsics[index], view.rotation[index], view.center[index])


def costs_of(
    view: View,
    images: Photographs,
    pixels: Tensor,
    points: Tensor,
    normals: Tensor,
    shape: PatchShape = SHAPE,
) -> tuple[Tensor, Tensor]:
    """Costs of patches of the first view in all others."""
    first = torch.zeros(len(points), dtype=torch.long)
    source = torch.arange(1, NUM_VIEWS).expand(len(points), -1)
    homographies = plane_homographies(points, normals, views_of(view, first), views_of(view, source))
    return plain_patch_costs(images, first, pixels, source, homographies, shape)


def slow_cost(
    view: View, images: Photographs, pixel: Tensor, point: Tensor, normal: Tensor, source: int
) -> float:
    """1 - NCC of one patch: rays meet the plane one by one, scipy interpolates, numpy fits the shading."""
    gray = images.rgb.double().numpy() @ np.array(LUMINANCE) / 255
    values = []
    for row in range(-3, 4):
        for column in range(-3, 4):
            place = pixel + SHAPE.stride * torch.tensor([column, row])
            direction = rays(view, 0, place[None])[0]
            depth = ((point - view.center[0]) @ normal) / (direction @ normal)
            seen = view.rotation[source].T @ (view.center[0] + depth * direction - view.center[source])
            x, y, w = (view.intrinsics[source] @ seen).tolist()
            ours = map_coordinates(gray[0], [[place[1]], [place[0]]], order=1)[0]
            theirs = map_coordinates(gray[source], [[y / w], [x / w]], order=1)[0]
            values.append((ours, theirs))
    rows, columns = np.divmod(np.arange(49), 7)
    linear = np.stack([np.ones(49), rows, columns], axis=1)
    texture = np.array(values) - linear @ np.linalg.lstsq(linear, np.array(values), rcond=None)[0]
    return float(1 - np.corrcoef(texture.T)[0, 1])


@pytest.mark.parametrize("kind", ["plane", "sphere"])
def test_costs_are_those_of_a_slow_oracle(kind: str) -> None:
    view, images, pixels, points, normals = surface(kind)
    tilted = functional.normalize(normals, dim=1) + torch.tensor([0.2, -0.1, 0.0])
    shifted = points + 0.03 * rays(view, 0, pixels)
    cost, valid = costs_of(view, images, pixels, shifted, tilted)
    assert valid.float().mean() > 0.9
    for n in range(0, 40, 7):
        for v in range(NUM_VIEWS - 1):
            if valid[n, v]:
                expected = slow_cost(view, images, pixels[n], shifted[n], tilted[n], v + 1)
                assert float(cost[n, v]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("kind", "size", "exact"), [("plane", 7, 0.002), ("sphere", 5, 0.006)])
def test_the_cost_is_smallest_on_the_surface(kind: str, size: int, exact: float) -> None:
    view, images, pixels, points, normals = surface(kind)
    directions = rays(view, 0, pixels)
    shape = PatchShape(size=size)  # of 5: the tangent plane leaves the sphere by 1 % of a pixel's width there
    mean = lambda points, normals: float(costs_of(view, images, pixels, points, normals, shape)[0].mean())  # noqa: E731
    at_surface = mean(points, normals)
    # Rounding to 8 bits, interpolation and, on the sphere, curvature, against the little that is not linear.
    assert at_surface < exact
    for shift, least in ((-0.04, 0.03), (-0.02, 0.008), (0.02, 0.008), (0.04, 0.03)):
        assert mean(points + shift * directions, normals) > at_surface + least
    turned = functional.normalize(normals, dim=1) + torch.tensor([0.3, 0.3, 0.0])
    assert mean(points, turned) > at_surface + 0.005


def test_gradients_reach_points_normals_and_cameras() -> None:
    view, images, pixels, points, normals = surface("sphere")
    some = slice(0, 3)

    def cost(points: Tensor, normals: Tensor, center: Tensor) -> Tensor:
        first, source = torch.zeros(3, dtype=torch.long), torch.arange(1, NUM_VIEWS).expand(3, -1)
        reference = replace(views_of(view, first), center=center)
        homographies = plane_homographies(points, normals, reference, views_of(view, source))
        return plain_patch_costs(images, first, pixels[some], source, homographies, SHAPE)[0]

    inputs = (points[some] + 0.01, normals[some], view.center[:1].expand(3, 3))
    leaves = [value.clone().requires_grad_() for value in inputs]
    # Between pixels the gray values are linear, so differences over 1e-7 of a radius are exact.
    assert torch.autograd.gradcheck(cost, leaves, eps=1e-7, atol=1e-4, rtol=1e-4)


def test_compiled_loops_are_the_plain_costs() -> None:
    loops = find_kernel("patch_loops")
    if loops is None:
        pytest.skip("needs numba")
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(6, 3, 15, 20, generator=generator)
    images = 255 * functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    images = images.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    photographs = Photographs(images, torch.rand(6, HEIGHT, WIDTH, generator=generator) > 1e-3)
    pixels = torch.rand(200, 2, generator=generator) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    reference = torch.randint(0, 6, (200,), generator=generator)
    source = torch.randint(0, 6, (200, 4), generator=generator)
    noise = torch.tensor([[0.05, 0.05, 2], [0.05, 0.05, 2], [1e-4, 1e-4, 0.05]])
    homographies = torch.eye(3) + noise * torch.randn(200, 4, 3, 3, generator=generator)
    homographies[:5, 0, 2] *= -1  # behind the camera
    results = []
    for function in (plain_patch_costs, loops.patch_costs):
        leaf = homographies.clone().requires_grad_()
        cost, valid = function(photographs, reference, pixels, source, leaf, SHAPE)
        weight = torch.arange(4.0)
        (gradient,) = torch.autograd.grad((cost * weight).sum(), leaf)
        results.append((cost, valid, gradient))
    (cost, valid, gradient), (twin_cost, twin_valid, twin_gradient) = results
    assert torch.equal(valid, twin_valid) and 0.3 < valid.float().mean() < 0.9
    torch.testing.assert_close(twin_cost, cost, rtol=0, atol=1e-5)
    scale = gradient.abs().amax(dim=(-1, -2), keepdim=True).clamp(min=1e-6)
    assert ((twin_gradient - gradient) / scale).abs().max() < 1e-3  # float32 sums of 49 samples
    served = patch_costs(photographs, reference, pixels, source, homographies, SHAPE)[0]
    assert torch.equal(served, twin_cost)


def test_patches_without_texture_or_outside_do_not_count() -> None:
    images = torch.full((2, HEIGHT, WIDTH, 3), 127, dtype=torch.uint8)
    images[:, :, WIDTH // 2 :] = torch.randint(0, 255, (2, HEIGHT, WIDTH // 2, 3), dtype=torch.uint8)
    masks = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 45:], masks[1, :, 70:] = False, False
    images[:, :20, : WIDTH // 2] = torch.arange(0, 2 * 20, 2, dtype=torch.uint8)[:, None, None] + 100
    distance = (torch.arange(20) - 10.0) ** 2 + (torch.arange(WIDTH // 2)[:, None] - 20.0) ** 2  # (40, 20)
    highlight = (250 - 0.6 * distance).clamp(min=127).round().to(torch.uint8).T
    images[:, 40:, : WIDTH // 2] = highlight[:, :, None]
    # Flat, textured, at the border, at the silhouette of the reference, at that of the source, shaded, shiny.
    pixels = torch.tensor([[20.0, 30.0], [60.0, 30.0], [60.0, 2.0], [60.0, 42.0], [67.0, 30.0], [20.0, 10.0]])
    pixels = torch.cat((pixels, torch.tensor([[22.0, 51.0]])))
    masks[0, 45:, : WIDTH // 2] = True
    eye = torch.eye(3).expand(7, 1, 3, 3)
    zero = torch.zeros(7, dtype=torch.long)
    photographs = Photographs(images[:1].expand(2, -1, -1, -1).contiguous(), masks)
    for function in (patch_costs, plain_patch_costs):
        cost, valid = function(photographs, zero, pixels, zero[:, None] + 1, eye, SHAPE)
        assert valid[:, 0].tolist() == [False, True, False, False, False, False, False]
    assert cost.abs().max() < 1e-5  # an image against itself


def test_the_best_views_count() -> None:
    cost = torch.tensor([[0.1, 0.9, 0.3, 0.2], [0.5, 0.4, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True, True], [True, True, False, False]])
    loss, count = consistency_loss(cost, valid, best=2, max_cost=0.45)
    assert float(loss) == pytest.approx((0.1 + 0.2 + 0.4) / 4) and int(count) == 3
    assert float(consistency_loss(cost, torch.zeros_like(valid), 2, 0.8)[0]) == 0.0
