"""The published tracer on shapes with closed-form intersections, and in edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.model.exact_shapes import trace_request

from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection
from idr.model.tracing import PublishedTracer, Rays, TracerConfig, TraceRequest, TraceResult

DOUBLE = torch.float64
CONFIG = TracerConfig(1.0, line_step_iters=3)
# A traced end stops at f <= 5e-5, at most 5e-5 / cos along the ray before the surface, for an angle to the
# normal of that cosine; eight steps of false position refine a sampled one further.
MIN_COSINE = 0.25
TOLERANCE = 5e-5 / MIN_COSINE * 1.5  # 1.5: the surface bends away from the ray


def sphere(x: torch.Tensor, center=(0.0, 0.0, 0.0), radius: float = 0.5) -> torch.Tensor:
    return (x - torch.tensor(center, dtype=x.dtype)).norm(dim=1) - radius


def torus(x: torch.Tensor, major: float = 0.55, minor: float = 0.2) -> torch.Tensor:
    ring = torch.hypot(x[:, 0], x[:, 1]) - major
    return torch.hypot(ring, x[:, 2]) - minor


def sheet(x: torch.Tensor, half_thickness: float = 0.004, half_side: float = 0.55) -> torch.Tensor:
    q = x.abs() - torch.tensor([half_side, half_side, half_thickness], dtype=x.dtype)
    return q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0)


def two_spheres(x: torch.Tensor) -> torch.Tensor:
    return torch.minimum(sphere(x, (0.0, 0.0, 0.45), 0.25), sphere(x, (0.0, 0.0, -0.45), 0.25))


def roots_on(polynomial: np.ndarray) -> list[float]:
    """Real positive roots, ascending."""
    return sorted(z.real for z in np.roots(polynomial) if abs(z.imag) < 1e-9 and z.real > 0)


def sphere_depth(c, v, center=(0.0, 0.0, 0.0), radius: float = 0.5) -> float | None:
    o = c - np.array(center)
    roots = roots_on(np.array([v @ v, 2 * o @ v, o @ o - radius**2]))
    return roots[0] if roots else None


def torus_depth(c, v, major: float = 0.55, minor: float = 0.2) -> float | None:
    """The first root of (|x|^2 + R^2 - r^2)^2 = 4 R^2 (x^2 + y^2) along the ray."""
    square = np.array([v @ v, 2 * c @ v, c @ c + major**2 - minor**2])
    flat = np.array([v[:2] @ v[:2], 2 * c[:2] @ v[:2], c[:2] @ c[:2]])
    roots = roots_on(np.polysub(np.polymul(square, square), 4 * major**2 * flat))
    return roots[0] if roots else None


def sheet_depth(c, v, half_thickness: float = 0.004, half_side: float = 0.55) -> float | None:
    """The slab method."""
    half = np.array([half_side, half_side, half_thickness])
    a, b = (-half - c) / v, (half - c) / v
    enter, leave = np.minimum(a, b).max(), np.maximum(a, b).min()
    return enter if 0 < enter < leave else None


def two_spheres_depth(c, v) -> float | None:
    depths = [sphere_depth(c, v, (0.0, 0.0, z), 0.25) for z in (0.45, -0.45)]
    return min((d for d in depths if d is not None), default=None)


def rays_towards(num: int, seed: int, distance: float = 2.2) -> tuple[Rays, SphereCrossing]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(num, 3))
    centers *= distance / np.linalg.norm(centers, axis=1, keepdims=True)
    directions = rng.uniform(-0.8, 0.8, size=(num, 3)) - centers
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return crossing_of(torch.tensor(centers), torch.tensor(directions))


def crossing_of(
    origin: torch.Tensor, direction: torch.Tensor, radius: float = 1.0
) -> tuple[Rays, SphereCrossing]:
    crossing = ray_sphere_intersection(origin, direction.unsqueeze(1), radius)
    flat = SphereCrossing(crossing.near[:, 0], crossing.far[:, 0], crossing.crosses[:, 0])
    return Rays(origin, direction), flat


def evaluate(sdf, rays: Rays, crossing: SphereCrossing, config: TracerConfig = CONFIG) -> TraceResult:
    return PublishedTracer(config).trace(TraceRequest.for_evaluation(sdf, rays, crossing))


def train(sdf, rays: Rays, crossing: SphereCrossing, mask: bool, *fractions: float) -> TraceResult:
    """Traces one ray in training, with the fractions of the minimum search."""
    request = TraceRequest.for_training(
        sdf, rays, crossing, torch.tensor([mask]), torch.tensor(fractions, dtype=DOUBLE)
    )
    return PublishedTracer(CONFIG).trace(request)


def ray(origin, direction) -> tuple[Rays, SphereCrossing]:
    v = torch.tensor([direction], dtype=DOUBLE)
    return crossing_of(torch.tensor([origin], dtype=DOUBLE), v / v.norm())


# --- shapes -------------------------------------------------------------------------------------------------

SHAPES = {
    "sphere": (sphere, sphere_depth),
    "torus": (torus, torus_depth),
    "thin sheet": (sheet, sheet_depth),
    "two spheres": (two_spheres, two_spheres_depth),
}


@pytest.mark.parametrize("distance", [2.2, 0.97])
@pytest.mark.parametrize("name", SHAPES)
def test_depth_equals_the_exact_intersection(name: str, distance: float) -> None:
    sdf, exact_depth = SHAPES[name]
    rays, crossing = rays_towards(250, seed=1, distance=distance)
    result = evaluate(sdf, rays, crossing)
    compared = 0
    for k, (c, v) in enumerate(zip(rays.origin.numpy(), rays.direction.numpy(), strict=True)):
        exact = exact_depth(c, v)
        if exact is None:
            # Closer than the threshold, the surface counts as reached.
            closest = sdf(
                rays.origin[k] + torch.linspace(0, 4, 2000, dtype=DOUBLE)[:, None] * rays.direction[k]
            ).min()
            assert not result.hit[k] or closest < 2e-3  # these samples are 2e-3 apart
            continue
        point = (rays.origin[k] + exact * rays.direction[k]).unsqueeze(0).requires_grad_(True)
        (normal,) = torch.autograd.grad(sdf(point).sum(), point)
        if (normal[0] @ rays.direction[k]).abs() > MIN_COSINE:
            assert result.hit[k], (k, exact)
            assert abs(result.depth[k].item() - exact) < TOLERANCE, k
            compared += 1
    assert compared > 30  # the shapes fill part of the sphere


@pytest.mark.parametrize("name", SHAPES)
def test_hits_lie_on_the_surface(name: str) -> None:
    sdf, _ = SHAPES[name]
    rays, crossing = rays_towards(250, seed=2)
    result = evaluate(sdf, rays, crossing)
    values = sdf(rays.at(result.depth))[result.hit]
    # Traced to f <= 5e-5, or refined; on grazing rays false position may end slightly deeper.
    assert values.abs().max() < 1e-3 and values.abs().median() < 5e-5
    assert (result.depth >= crossing.near)[result.hit].all() and (result.depth <= crossing.far)[
        result.hit
    ].all()


def test_first_of_two_surfaces() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    result = evaluate(two_spheres, rays, crossing)
    assert result.hit and abs(result.depth.item() - 2.3) < TOLERANCE


def test_camera_inside_the_bounding_sphere() -> None:
    rays, crossing = ray((0.0, 0.0, -0.8), (0.0, 0.0, 1.0))
    result = evaluate(sphere, rays, crossing)
    assert result.hit and abs(result.depth.item() - 0.3) < TOLERANCE


def test_camera_inside_the_object_hits_at_depth_zero() -> None:
    rays, crossing = ray((0.0, 0.0, 0.1), (0.0, 0.0, 1.0))
    result = evaluate(sphere, rays, crossing)
    assert result.hit and result.depth.item() == 0


@pytest.mark.parametrize("in_mask", [True, False])
def test_sphere_missed(in_mask: bool) -> None:
    rays, crossing = ray((2.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    result = evaluate(sphere, rays, crossing)
    assert not result.hit and result.depth.item() == 0
    trained = train(sphere, rays, crossing, in_mask, 0.5)
    assert not trained.hit and trained.depth.item() == 3  # closest to the origin
    rays, crossing = ray((2.0, 0.0, 3.0), (0.0, 0.0, 1.0))
    behind = train(sphere, rays, crossing, in_mask, 0.5)
    assert behind.depth.item() == -3  # may be negative


def test_sphere_behind_the_camera() -> None:
    rays, crossing = ray((0.0, 0.0, 3.0), (0.0, 0.0, 1.0))
    assert crossing.crosses
    result = evaluate(sphere, rays, crossing)
    assert not result.hit and result.depth.item() == 2.5  # the near end after one step of f
    trained = train(sphere, rays, crossing, False, 0.2, 0.9)
    assert not trained.hit and trained.depth.item() == 0  # a chord of length 0


# --- settings -----------------------------------------------------------------------------------------------


def test_sampler_alone_with_and_without_refinement() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))

    def wall(x: torch.Tensor) -> torch.Tensor:
        """Too flat for sphere tracing, and curved: one chord is not enough."""
        return 1e-3 * torch.expm1(-(x[:, 2] - 0.1234))

    near, far = crossing.near, crossing.far
    refined, hit = PublishedTracer(CONFIG)._sample(wall, rays, near, far, torch.tensor([True]))
    assert hit and abs(refined.item() - 3.1234) < 1e-9
    unrefined, _ = PublishedTracer(TracerConfig(1.0, n_secant_steps=0))._sample(
        wall, rays, near, far, torch.tensor([True])
    )
    # One chord across a cell of h = 2 / 99 errs by at most h^2 / 8 times f'' / f' = 1 there.
    assert 1e-9 < abs(unrefined.item() - 3.1234) < (2 / 99) ** 2 / 8 * 1.05
    outside, hit = PublishedTracer(CONFIG)._sample(wall, rays, near, far, torch.tensor([False]))
    assert hit and outside.item() == far.item()  # the smallest sample: the last one


def test_two_samples_are_the_ends() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    seen: list[torch.Tensor] = []

    def ramp(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return -x[:, 2] - 0.5

    depth, hit = PublishedTracer(TracerConfig(1.0, n_steps=2, n_secant_steps=0))._sample(
        ramp, rays, crossing.near, crossing.far, torch.tensor([True])
    )
    assert seen[0][:, 2].tolist() == [-1.0, 1.0] and len(seen) == 1
    assert hit and depth.item() == pytest.approx(2.5, abs=1e-12)


def test_a_sample_of_exactly_zero_is_no_sign_change() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    tracer = PublishedTracer(TracerConfig(1.0, n_steps=3))  # samples at z = -1, 0, 1
    near, far, refine = crossing.near, crossing.far, torch.tensor([True])
    depth, hit = tracer._sample(lambda x: x[:, 2].abs(), rays, near, far, refine)
    assert not hit and depth.item() == 3  # but the smallest


def test_first_sample_inside_is_returned_unrefined() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    num_samples = CONFIG.n_steps

    def inconsistent(x: torch.Tensor) -> torch.Tensor:
        """Just above the threshold in sphere tracing, negative when sampled: worst-case rounding."""
        return torch.full_like(x[:, 0], -1e-6 if x.shape[0] == num_samples else 1e-4)

    result = evaluate(inconsistent, rays, crossing)
    stopped = 2 + CONFIG.sphere_tracing_iters * 1e-4
    assert result.hit and result.depth.item() == pytest.approx(stopped, abs=1e-12)
    assert math.isfinite(result.depth.item())


def test_without_correction_an_overshot_end_stays_inside() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))

    def steep(x: torch.Tensor) -> torch.Tensor:
        return 1.5 * sphere(x)  # the first step, 0.75, lands 0.25 inside

    left = evaluate(steep, rays, crossing, TracerConfig(1.0, line_step_iters=0))
    assert left.hit and left.depth.item() == pytest.approx(2.75, abs=1e-12)
    # One correction halves the step, to 2.375, which is outside; tracing continues there.
    corrected = evaluate(steep, rays, crossing, TracerConfig(1.0, line_step_iters=3))
    assert corrected.hit and abs(corrected.depth.item() - 2.5) < 1e-4


@pytest.mark.parametrize(
    ("corrections", "depth"), [(0, 9.5), (1, 5.75), (2, 3.875), (3, 2.9375), (4, 2.9375)]
)
def test_corrections_undo_a_half_a_quarter_and_an_eighth(corrections: int, depth: float) -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))

    def wall(x: torch.Tensor) -> torch.Tensor:
        return 5 * (0.5 - x[:, 2])  # at depth 2, f is 7.5 where the distance is 1.5

    config = TracerConfig(1.0, line_step_iters=corrections, sphere_tracing_iters=1)
    ends = PublishedTracer(config)._trace_from_both_ends(wall, rays, crossing)
    assert ends.near.item() == depth and ends.far.item() == 4  # exact in binary
    assert ends.near_unfinished.item() == (corrections > 2)


def test_everything_inside_and_everything_outside() -> None:
    rays, crossing = rays_towards(30, seed=4)
    inside = evaluate(lambda x: torch.full_like(x[:, 0], -1.0), rays, crossing)
    assert torch.equal(inside.hit, crossing.crosses & (crossing.near < crossing.far))
    assert torch.equal(inside.depth, crossing.near)
    outside = evaluate(lambda x: torch.full_like(x[:, 0], 0.5), rays, crossing)
    assert not outside.hit.any() and torch.isfinite(outside.depth).all()


@pytest.mark.parametrize("value", [0.0, CONFIG.sdf_threshold, -1.0])
def test_f_up_to_the_threshold_at_the_start_is_a_hit(value: float) -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    result = evaluate(lambda x: torch.full_like(x[:, 0], value), rays, crossing)
    assert result.hit and result.depth.item() == 2


def test_ends_that_meet_exactly_stop_without_a_hit() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    result = evaluate(lambda x: torch.full_like(x[:, 0], 0.25), rays, crossing)  # four steps from 2 and 4
    assert not result.hit and result.depth.item() == 3


@pytest.mark.parametrize("training", [False, True])
def test_no_rays(training: bool) -> None:
    rays, crossing = crossing_of(torch.zeros(0, 3), torch.zeros(0, 3))
    mask = torch.zeros(0, dtype=torch.bool)
    request = trace_request(sphere, rays, crossing, mask, torch.rand(5) if training else None)
    result = PublishedTracer(CONFIG).trace(request)
    assert result.depth.shape == result.hit.shape == (0,) and result.hit.dtype == torch.bool


def test_no_gradient_leaves_the_tracer() -> None:
    rays, crossing = ray((0.0, 0.0, -3.0), (0.0, 0.0, 1.0))
    radius = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    result = evaluate(lambda x: x.norm(dim=1) - radius, rays, crossing)
    assert not result.depth.requires_grad
