"""The differentiable intersection, against finite differences of the true intersection."""

from __future__ import annotations

import torch

from idr.model.sample_network import differentiable_intersection

DOUBLE = torch.float64


def ellipsoid(points: torch.Tensor, semi_axes: torch.Tensor) -> torch.Tensor:
    """An implicit function of an ellipsoid, whose gradient is not of length 1."""
    return ((points / semi_axes) ** 2).sum(dim=1, keepdim=True) - 1


def ellipsoid_gradient(points: torch.Tensor, semi_axes: torch.Tensor) -> torch.Tensor:
    return 2 * points / semi_axes**2


def true_depth(center: torch.Tensor, direction: torch.Tensor, semi_axes: torch.Tensor) -> torch.Tensor:
    """The first root of the quadratic along rays of any length, (N, 1)."""
    c, v = center / semi_axes, direction / semi_axes
    a, half_b = (v * v).sum(dim=1), (c * v).sum(dim=1)
    k = (c * c).sum(dim=1) - 1
    return ((-half_b - (half_b**2 - a * k).sqrt()) / a).unsqueeze(1)


def intersect(center: torch.Tensor, direction: torch.Tensor, semi_axes: torch.Tensor) -> torch.Tensor:
    """Traces in closed form, then applies the function under test as the network does.

    Its values are the true intersections, so finite differences are those of the true intersection, while its
    autograd derivative is that of Eq. 3.
    """
    with torch.no_grad():
        depth = true_depth(center, direction, semi_axes)
        normal = ellipsoid_gradient(center + depth * direction, semi_axes)
    sdf = ellipsoid(center + depth * direction, semi_axes)
    return differentiable_intersection(center, direction, depth, sdf, normal)


def rays(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = 3 * torch.nn.functional.normalize(torch.randn(num, 3, generator=generator, dtype=DOUBLE), dim=1)
    aim = 0.5 * (torch.rand(num, 3, generator=generator, dtype=DOUBLE) - 0.5)
    return center, torch.nn.functional.normalize(aim - center, dim=1)


def test_gradcheck_for_geometry_and_camera() -> None:
    center, direction = rays(5)
    semi_axes = torch.tensor([0.7, 0.5, 0.9], dtype=DOUBLE)
    inputs = tuple(t.requires_grad_(True) for t in (center, direction, semi_axes))
    assert torch.autograd.gradcheck(intersect, inputs)


def test_gradcheck_for_a_sphere() -> None:
    center, direction = rays(4, seed=1)
    radius = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, v, r: intersect(c, v, r.expand(3)),
        (center.requires_grad_(True), direction.requires_grad_(True), radius),
    )


def test_derivative_by_radius_in_closed_form() -> None:
    # The front of a sphere that grows by dr moves toward the camera by dr.
    center = torch.tensor([[0.0, 0.0, -3.0]], dtype=DOUBLE)
    direction = torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE)
    radius = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    point = intersect(center, direction, radius.expand(3))
    (gradient,) = torch.autograd.grad(point[0, 2], radius)
    assert abs(point[0, 2].item() + 0.6) < 1e-12 and abs(gradient.item() + 1) < 1e-12


def test_value_is_the_traced_point_even_off_the_surface() -> None:
    center, direction = rays(6, seed=2)
    semi_axes = torch.full((3,), 0.6, dtype=DOUBLE)
    depth = true_depth(center, direction, semi_axes) + 0.05  # a tracer that did not reach the surface
    points = center + depth * direction
    sdf, normal = ellipsoid(points, semi_axes), ellipsoid_gradient(points, semi_axes)
    assert torch.equal(differentiable_intersection(center, direction, depth, sdf, normal), points)


def test_points_move_on_the_surface_when_the_camera_does() -> None:
    center, direction = rays(8, seed=3)
    semi_axes = torch.tensor([0.7, 0.5, 0.9], dtype=DOUBLE)
    jacobian = torch.func.jacrev(lambda c: intersect(c, direction, semi_axes).sum(dim=0))(center)  # (3, N, 3)
    normal = ellipsoid_gradient(intersect(center, direction, semi_axes), semi_axes)
    # For any motion of the camera, the motion of the point is orthogonal to the normal.
    along_normal = torch.einsum("inj,ni->nj", jacobian, normal)
    assert along_normal.abs().max() < 1e-10


def test_constants_carry_no_gradient() -> None:
    center, direction = rays(3, seed=4)
    depth = torch.full((3, 1), 2.0, dtype=DOUBLE, requires_grad=True)
    normal = torch.randn(3, 3, dtype=DOUBLE).requires_grad_(True)
    sdf = torch.zeros(3, 1, dtype=DOUBLE, requires_grad=True)
    differentiable_intersection(center, direction, depth, sdf, normal).sum().backward()
    assert depth.grad is None and normal.grad is None and sdf.grad is not None


def test_tangential_ray_is_finite() -> None:
    center = torch.tensor([[0.6, 0.0, -3.0], [0.0, 0.0, -3.0]], dtype=DOUBLE, requires_grad=True)
    direction = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=DOUBLE, requires_grad=True)
    radius = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    depth = torch.tensor([[3.0], [2.4]], dtype=DOUBLE)
    points = center + depth * direction
    sdf = points.norm(dim=1, keepdim=True) - radius
    normal = torch.nn.functional.normalize(points, dim=1).detach()
    assert (normal[0] * direction[0]).sum() == 0
    result = differentiable_intersection(center, direction, depth, sdf, normal)
    result.square().sum().backward()
    for gradient in (center.grad, direction.grad, radius.grad):
        assert torch.isfinite(gradient).all()
    assert (result[0] - points[0]).abs().max() == 0
    assert radius.grad != 0  # from the other ray


def test_min_abs_cos_bounds_grazing_rays_only() -> None:
    center = torch.tensor([[0.599, 0.0, -3.0], [0.3, 0.0, -3.0]], dtype=DOUBLE)
    direction = torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE).expand(2, 3)
    depth = true_depth(center, direction, torch.full((3,), 0.6, dtype=DOUBLE))
    normal = torch.nn.functional.normalize(center + depth * direction, dim=1)
    slopes = normal[:, 2]  # -0.058 and -0.87
    for bound, expected in ((0.0, slopes), (0.2, torch.stack((-torch.tensor(0.2).double(), slopes[1])))):
        sdf = torch.zeros(2, 1, dtype=DOUBLE, requires_grad=True)
        points = differentiable_intersection(center, direction, depth, sdf, normal, min_abs_cos=bound)
        (by_sdf,) = torch.autograd.grad(points[:, 2].sum(), sdf)
        assert torch.allclose(by_sdf.squeeze(1), -1 / expected)


def test_no_rays() -> None:
    empty = torch.zeros(0, 3, dtype=DOUBLE)
    scalar = torch.zeros(0, 1, dtype=DOUBLE)
    assert differentiable_intersection(empty, empty, scalar, scalar, empty).shape == (0, 3)
