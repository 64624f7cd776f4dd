"""The built-in scene's object, colors and exact renderings."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idr.demo import scene as synthetic
from idr.demo import teapot as synthetic_object
from idr.demo.appearance import albedo, shade
from idr.demo.cameras import camera_intrinsics, look_at
from idr.demo.render import (
    MIN_STEP,
    camera_rays,
    exact_forward,
    intersect,
    render,
    safe_start,
    subpixel_offsets,
)
from idr.demo.teapot import BOUNDING_RADIUS, HANDLE_CENTER, gradient, normal, project_to_surface, sdf
from idr.geometry.cameras import pixel_rays

ROUNDING = 1e-12
VIEW = look_at(np.array([1.0, -2.6, 1.1]), np.zeros(3))


def extract(function, half_side, resolution):
    """Marching cubes by scikit-image, independent of the project's."""
    from skimage.measure import marching_cubes

    along = np.linspace(-half_side, half_side, resolution)
    grid = np.stack(np.meshgrid(along, along, along, indexing="ij"), axis=-1).reshape(-1, 3)
    volume = function(grid).reshape((resolution,) * 3)
    vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
    return along[0] + vertices * (along[1] - along[0]), faces


def random_rays(num_rays, generator):
    """Rays from all directions towards points near the object."""
    origins = generator.standard_normal((num_rays, 3))
    origins *= 3 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = generator.uniform(-0.8, 0.8, (num_rays, 3)) - origins
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


# The object


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-5, 1e-3, 0.03, 0.5]))
@settings(max_examples=24, deadline=None)
def test_the_function_is_1_lipschitz(seed, reach):
    generator = np.random.default_rng(seed)
    x = generator.uniform(-0.95, 0.95, (4000, 3))
    y = x + reach * generator.standard_normal((4000, 3))
    slope = np.abs(sdf(x) - sdf(y)) / np.linalg.norm(x - y, axis=1)
    assert slope.max() <= 1 + 1e-9  # rounding over the smallest distance


def test_the_gradient_is_close_to_one_on_the_surface():
    points = project_to_surface(extract(sdf, 0.87, 40)[0])
    slopes = np.linalg.norm(gradient(points), axis=1)
    assert slopes.max() <= 1 and np.median(slopes) > 0.9  # the slope bound costs at most a tenth


def test_the_object_is_closed_with_one_hole_and_inside_its_ball():
    import trimesh

    vertices, faces = synthetic.exact_mesh(extract, 80)
    mesh = trimesh.Trimesh(vertices, faces, process=True)
    assert mesh.is_watertight and mesh.body_count == 1
    assert mesh.volume > 0  # faces are oriented outward
    assert mesh.euler_number == 0  # a torus: the handle's hole; the spout's bore is blind
    assert np.linalg.norm(vertices, axis=1).max() < BOUNDING_RADIUS
    assert np.abs(sdf(vertices)).max() < 1e-9
    outside = np.random.default_rng(0).standard_normal((20_000, 3))
    assert (sdf(BOUNDING_RADIUS * outside / np.linalg.norm(outside, axis=1, keepdims=True)) > 0).all()


def test_rays_pass_through_the_handle_and_the_object_is_not_convex():
    middle = HANDLE_CENTER + (-0.07, 0.0, 0.0)
    origin = (middle + (0.0, -3.0, 0.0))[None]
    for shift in (-0.04, 0.0, 0.04):
        _, hit = intersect(origin + (shift, 0.0, shift), np.array([[0.0, 1.0, 0.0]]))
        assert not hit[0]
    grip, belly = HANDLE_CENTER - (0.2, 0.0, 0.0), np.zeros(3)
    assert sdf(grip[None])[0] < 0 and sdf(belly[None])[0] < 0
    assert (sdf(np.linspace(grip, belly, 100)) > 0).any()


def test_a_round_cone_is_the_union_of_the_balls_along_its_axis():
    generator = np.random.default_rng(0)
    p, q = (
        generator.uniform(-0.5, 1.5, 300),
        generator.uniform(0.5, 1, 300),
    )  # outside, where distances are exact
    along = np.linspace(0, 1, 4001)
    balls = np.hypot(p[:, None] - along * 0.8, q[:, None]) - (0.3 - 0.2 * along)
    ours = synthetic_object._round_cone(p, q, 0.8, np.array([0.3, 0.1]))
    np.testing.assert_allclose(ours, balls.min(axis=1), atol=1e-7)  # the balls' spacing squared


def test_skipping_parts_for_speed_changes_nothing():
    generator = np.random.default_rng(1)
    x, y, z = generator.uniform(-0.9, 0.9, (3, 200_000))
    r = np.hypot(x, y)
    body, _, spout, handle = synthetic_object.part_distances(np.column_stack((x, y, z)))
    dome = synthetic_object.smooth_union(
        np.hypot(r, z - 0.155) - 0.285,
        synthetic_object.smooth_union(np.hypot(r, z - 0.515) - 0.066, np.hypot(r, z - 0.45) - 0.042, 0.03),
        0.035,
    )
    beads = np.full_like(x, np.inf)
    for azimuth in 2 * np.pi / synthetic_object.NUM_BEADS * np.arange(synthetic_object.NUM_BEADS):
        center = synthetic_object.LID_RING_RADIUS * np.array([np.cos(azimuth), np.sin(azimuth)])
        ball = np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - synthetic_object.LID_HEIGHT) ** 2)
        beads = np.minimum(beads, ball - 0.028)
    joined = synthetic_object.smooth_union(synthetic_object.smooth_union(body, spout, 0.06), handle, 0.045)
    whole = synthetic_object.smooth_union(joined, np.minimum(dome, beads), 0.012)
    np.testing.assert_allclose(
        sdf(np.column_stack((x, y, z))), whole / synthetic_object._SLOPE_BOUND, atol=ROUNDING
    )


def test_gradient_and_projection():
    points = project_to_surface(extract(sdf, 0.87, 40)[0])
    assert np.abs(sdf(points)).max() < 1e-9
    outwards = normal(points)
    np.testing.assert_allclose(np.linalg.norm(outwards, axis=1), 1, atol=ROUNDING)
    assert (sdf(points + 1e-4 * outwards) > 0).all() and (sdf(points - 1e-4 * outwards) < 0).all()


# Colors


def test_highlights_move_with_the_viewer_and_colors_stay_in_range():
    points = project_to_surface(extract(sdf, 0.87, 40)[0])
    normals = normal(points)
    views = np.random.default_rng(0).standard_normal((2, len(points), 3))
    views += 3 * normals
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    seen = [shade(points, normals, view) for view in views]
    for color in (*seen, albedo(points)):
        assert color.shape == points.shape and color.min() >= 0 and color.max() <= 1
    assert np.abs(seen[0] - seen[1]).max() > 0.2
    assert np.array_equal(seen[0], shade(points, normals, views[0]))
    assert albedo(points).std(axis=0).min() > 0.1  # a texture, not a tint


# Renderings


def test_intersections_equal_dense_sampling():
    origins, directions = random_rays(600, np.random.default_rng(3))
    depth, hit = intersect(origins, directions)
    steps = np.arange(3 - BOUNDING_RADIUS - 0.01, 3 + BOUNDING_RADIUS, MIN_STEP)
    for k in range(len(origins)):
        inside = np.flatnonzero(sdf(origins[k] + steps[:, None] * directions[k]) < 0)
        if not inside.size:  # a grazing ray may hit between two samples
            assert not hit[k] or np.abs(sdf((origins[k] + (depth[k] + 2e-4) * directions[k])[None]))[0] < 1e-4
            continue
        first = steps[inside[0]]
        assert hit[k] and first - MIN_STEP - 1e-9 <= depth[k] <= first + 1e-9
    assert 150 < hit.sum() < 550
    assert np.abs(sdf(origins[hit] + depth[hit, None] * directions[hit])).max() < 1e-9
    assert np.isnan(depth[~hit]).all()


def test_bundles_never_start_behind_a_hit():
    pose, spread = VIEW, 0.01
    generator = np.random.default_rng(0)
    uv = generator.uniform((0, 0), (160, 128), (400, 2))
    origin, middles = camera_rays(camera_intrinsics((128, 160)), pose, uv)
    start = safe_start(origin, middles, spread)
    assert np.isinf(start).any() and np.isfinite(start).any()
    for _ in range(5):
        shift = generator.standard_normal(middles.shape)
        rays = middles + 0.9 * spread * shift / np.linalg.norm(shift, axis=1, keepdims=True)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        depth, hit = intersect(np.broadcast_to(origin, rays.shape), rays)
        assert (depth[hit] >= start[hit]).all()  # infinite if no ray of the bundle can hit


def test_samples_are_symmetric_about_the_pixel_center():
    offsets = subpixel_offsets(4)
    assert offsets.shape == (16, 2) and sorted(set(offsets[:, 0])) == [-0.375, -0.125, 0.125, 0.375]
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=ROUNDING)
    np.testing.assert_array_equal(subpixel_offsets(1), [[0.0, 0.0]])


def test_rays_agree_with_the_geometry_module():
    intrinsics = camera_intrinsics((128, 160))
    uv = np.array([[0.0, 0.0], [159.0, 3.0], [71.5, 64.25]])
    origin, directions = camera_rays(intrinsics, VIEW, uv)
    theirs, center = pixel_rays(*(torch.from_numpy(value)[None] for value in (uv, VIEW, intrinsics)))
    np.testing.assert_allclose(directions, theirs[0], atol=ROUNDING)
    np.testing.assert_allclose(origin, center[0], atol=ROUNDING)


def test_a_pixel_is_the_mean_of_its_samples():
    """Compared with single rays, without bundles, for a row of pixels across the object."""
    shape, row, samples = (16, 20), 8, 2
    intrinsics = camera_intrinsics(shape)
    view = render(intrinsics, VIEW, shape, samples)
    assert 0 < (view.coverage[row] > 0).sum() < shape[1]
    for column in range(shape[1]):
        colors = []
        for i in range(samples):
            for j in range(samples):
                at = [column + (j - 0.5) / 2, row + (i - 0.5) / 2]
                origin, direction = camera_rays(intrinsics, VIEW, np.array([at]))
                depth, hit = intersect(origin[None], direction)
                point = origin + depth[:, None] * direction
                colors.append(shade(point, normal(point), -direction)[0] if hit[0] else np.ones(3))
        np.testing.assert_allclose(view.rgb[row, column], np.mean(colors, axis=0), atol=1e-6)


def test_exact_forward_agrees_with_the_renderer():
    intrinsics, pose = (torch.from_numpy(x).float() for x in (camera_intrinsics((24, 30)), VIEW))
    rows, columns = np.divmod(np.arange(24 * 30), 30)
    uv = torch.from_numpy(np.column_stack((columns, rows))).float()
    out = exact_forward({"intrinsics": intrinsics[None], "uv": uv[None], "pose": pose[None]})
    shapes = {key: tuple(value.shape) for key, value in out.items()}
    assert shapes == {
        "points": (720, 3), "rgb_values": (720, 3), "sdf_output": (720, 1), "network_object_mask": (720,)
    }  # fmt: skip
    view = render(intrinsics.double().numpy(), pose.double().numpy(), (24, 30), 1)
    hit = out["network_object_mask"]
    assert np.array_equal(hit.numpy(), view.coverage.reshape(-1) > 0)
    np.testing.assert_allclose(out["rgb_values"].numpy(), 2 * view.rgb.reshape(-1, 3) - 1, atol=1e-6)
    assert out["sdf_output"][hit].abs().max() < 1e-6 and (out["sdf_output"][~hit] > 0).all()
    assert (out["rgb_values"][~hit] == 1).all()
