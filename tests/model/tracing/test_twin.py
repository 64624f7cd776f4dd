"""The published tracer against a slow reference, ray by ray: decisions, depths, number of evaluations.

In float64 both decide alike unless f comes within 1e-15 of a bound, which does not happen with these seeds.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tests.model.exact_shapes import trace_request
from tests.model.networks import implicit_network, roughen
from tests.model.slow_tracer import SlowTracer

from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection
from idr.model.implicit_network import ImplicitNetwork
from idr.model.tracing import PublishedTracer, Rays, TracerConfig

DOUBLE = torch.float64
# Rounding, amplified by up to 18 dependent steps.
DEPTH_TOLERANCE = 1e-9
SCENES = ((0, 1.0), (1, 2.6), (3, 6.0), (2, 0.6))  # seed and scale of f: steps right, too long, too short


def lumpy_network(seed: int, stretch: float) -> ImplicitNetwork:
    """A network whose zero set is a lumpy blob; its values are scaled, so that steps overshoot."""
    network = implicit_network(seed, features=0, dims=(20, 20), multires=1, bias=0.5)
    roughen(network, 0.25, seed)
    with torch.no_grad():
        network.lin2.weight_g *= stretch
        network.lin2.bias *= stretch
    return network


def numpy_f(network: ImplicitNetwork):
    """The same network in numpy, as a function of one point."""
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (network.layer(index) for index in range(network.num_layers))
    ]

    def f(point) -> float:
        x = np.asarray(point)
        hidden = np.concatenate((x, np.sin(x), np.cos(x)))
        for index, (weight, bias) in enumerate(layers):
            hidden = weight @ hidden + bias
            if index < len(layers) - 1:
                scaled = 100 * hidden
                hidden = np.where(scaled > 20, hidden, np.log1p(np.exp(np.minimum(scaled, 20))) / 100)
        return float(hidden[0])

    return f


def scene_rays(num: int, seed: int, distance: float = 2.5):
    """Rays from three cameras: towards the sphere, past it, and a few away from it."""
    generator = torch.Generator().manual_seed(seed)
    centers = (
        torch.nn.functional.normalize(torch.randn(3, 3, generator=generator, dtype=DOUBLE), dim=1) * distance
    )
    aim = 0.6 * torch.randn(3, num // 3, 3, generator=generator, dtype=DOUBLE).clamp(-1.5, 1.5)
    directions = torch.nn.functional.normalize(aim - centers.unsqueeze(1), dim=2)
    directions[:, ::17] *= -1
    crossing = ray_sphere_intersection(centers, directions, 1.0)
    flat = SphereCrossing(crossing.near.flatten(), crossing.far.flatten(), crossing.crosses.flatten())
    rays = Rays(centers.repeat_interleave(num // 3, dim=0), directions.reshape(-1, 3))
    object_mask = torch.rand(rays.origin.shape[0], generator=generator) < 0.6
    draws = torch.rand(23, generator=generator, dtype=DOUBLE)
    return rays, flat, object_mask, draws


class CountingSdf:
    """Counts the points at which f is evaluated."""

    def __init__(self, network: ImplicitNetwork) -> None:
        self.network = network
        self.points = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.points += x.shape[0]
        return self.network(x)[:, 0]


def compare(network, config: TracerConfig, rays, crossing, object_mask, draws) -> tuple[Counter, SlowTracer]:
    """Compares every ray; returns the number of rays by path, and the reference with its counts."""
    sdf = CountingSdf(network)
    result = PublishedTracer(config).trace(trace_request(sdf, rays, crossing, object_mask, draws))
    reference = SlowTracer(
        numpy_f(network),
        config.object_bounding_sphere,
        config.sdf_threshold,
        config.line_search_step,
        config.line_step_iters,
        config.sphere_tracing_iters,
        config.n_steps,
        config.n_secant_steps,
        None if draws is None else draws.tolist(),
    )
    paths: Counter = Counter()
    for k in range(rays.origin.shape[0]):
        expected = reference.trace(rays.origin[k].tolist(), rays.direction[k].tolist(), bool(object_mask[k]))
        depth, hit, path = expected
        paths[path] += 1
        assert result.hit[k].item() == hit, (k, path)
        assert result.depth[k].item() == pytest.approx(depth, abs=DEPTH_TOLERANCE), (k, path)
    assert result.depth.dtype == DOUBLE and result.hit.dtype == torch.bool
    assert sdf.points == sum(reference.evaluations.values())  # not one more than the method needs
    return paths, reference


CONFIGS = {
    "dtu": TracerConfig(1.0, line_step_iters=3),
    "defaults": TracerConfig(1.0),
    "no correction": TracerConfig(1.0, line_step_iters=0),
    "no refinement": TracerConfig(1.0, line_step_iters=3, n_secant_steps=0, sphere_tracing_iters=4),
    "two samples": TracerConfig(1.0, n_steps=2, sphere_tracing_iters=3),
    "longer steps kept": TracerConfig(1.0, line_search_step=0.8, line_step_iters=2, n_steps=30),
    "loose threshold": TracerConfig(1.0, sdf_threshold=1e-2, n_steps=25),
    "larger sphere": TracerConfig(1.2, line_step_iters=3, n_steps=20),
}


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@pytest.mark.parametrize("name", CONFIGS)
def test_tracer_equals_the_slow_reference(name: str, mode: str) -> None:
    for seed, stretch in SCENES:
        rays, crossing, object_mask, draws = scene_rays(42, seed)
        config = CONFIGS[name]
        if config.object_bounding_sphere != 1.0:
            far_apart = ray_sphere_intersection(
                rays.origin, rays.direction.unsqueeze(1), config.object_bounding_sphere
            )
            crossing = SphereCrossing(far_apart.near[:, 0], far_apart.far[:, 0], far_apart.crosses[:, 0])
        compare(
            lumpy_network(seed, stretch),
            config,
            rays,
            crossing,
            object_mask,
            draws if mode == "training" else None,
        )


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_every_path_occurs(mode: str) -> None:
    """Otherwise the comparison above might see nothing but misses."""
    paths: Counter = Counter()
    for seed, stretch in SCENES:
        rays, crossing, object_mask, draws = scene_rays(90, seed)
        config = TracerConfig(1.0, line_step_iters=3, n_steps=40)
        paths_of_scene, _ = compare(
            lumpy_network(seed, stretch),
            config,
            rays,
            crossing,
            object_mask,
            draws if mode == "training" else None,
        )
        paths += paths_of_scene
    expected = {"missed", "traced hit", "corrected hit", "sampled hit", "sampled miss"}
    if mode == "training":
        expected |= {
            "sampled hit outside the mask",
            "searched, traced hit",
            "searched, corrected hit",
            "searched, ends met",
        }
    else:
        expected |= {"ends met"}
    assert expected <= set(paths), paths


def test_camera_inside_the_bounding_sphere() -> None:
    network = lumpy_network(3, 1.2)
    for distance in (0.85, 0.1):  # outside and inside the object
        rays, crossing, object_mask, draws = scene_rays(45, 3, distance)
        assert (crossing.near == 0).all() and crossing.crosses.all()
        for fractions in (None, draws):
            config = TracerConfig(1.0, line_step_iters=3, n_steps=30)
            compare(network, config, rays, crossing, object_mask, fractions)


def test_evaluations_by_stage_stay_within_their_bounds() -> None:
    rays, crossing, object_mask, draws = scene_rays(90, 5)
    config = TracerConfig(1.0, line_step_iters=3, n_steps=40)
    paths, reference = compare(lumpy_network(2, 0.6), config, rays, crossing, object_mask, draws)
    num_crossing = int(crossing.crosses.sum())
    sampled = sum(count for path, count in paths.items() if path.startswith("sampled"))
    searched = sum(count for path, count in paths.items() if path.startswith("searched"))
    most_a_step = 1 + config.line_step_iters
    assert 2 * num_crossing <= reference.evaluations["tracing"]
    assert reference.evaluations["tracing"] <= 2 * num_crossing * (
        1 + config.sphere_tracing_iters * most_a_step
    )
    assert reference.evaluations["sampler"] == sampled * config.n_steps
    assert reference.evaluations["secant"] == paths["sampled hit"] * config.n_secant_steps
    assert reference.evaluations["smallest"] == searched * len(draws)


def test_results_do_not_depend_on_the_batch() -> None:
    rays, crossing, object_mask, draws = scene_rays(45, 6)
    network, tracer = lumpy_network(2, 0.6), PublishedTracer(TracerConfig(1.0, n_steps=30))

    request = trace_request(lambda x: network(x)[:, 0], rays, crossing, object_mask, draws)
    whole = tracer.trace(request)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    shuffled = tracer.trace(request.subset(order))
    assert torch.equal(shuffled.hit, whole.hit[order])
    assert (shuffled.depth - whole.depth[order]).abs().max() < DEPTH_TOLERANCE
    single = tracer.trace(request.subset(torch.tensor([7])))
    assert abs(single.depth.item() - whole.depth[7].item()) < DEPTH_TOLERANCE
