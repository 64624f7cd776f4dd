"""The sparse extractor against the dense one."""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest
import torch

from idr.errors import InputError
from idr.fields import refinement
from idr.fields.refinement import PagedValues, SlopeBounds
from idr.meshing import blocks, extract_dense, extract_mesh, extract_sparse, surface_frame, uniform_grid
from idr.meshing.sampling import GridSampler
from idr.meshing.sparse import SurfaceSearch, strides_of
from tests.meshing import fields
from tests.meshing.fields import Counted, assert_same_mesh, skew_grid, sphere, torus, union
from tests.model.networks import roughen
from tests.parity import golden

FIELDS = {
    "sphere": sphere(0.7),
    "torus": torus(0.6, 0.2),
    "gradient 2": torus(0.6, 0.2, factor=2.0),
    "gradient 0.5": torus(0.6, 0.2, factor=0.5),
    "wiggly": fields.wiggly,
    "steep at the surface": fields.steep_at_surface,
    "thin sheet": fields.sheet(0.018),  # a coarse cell is 0.06 wide
    "tiny far part": union(sphere(0.4), sphere(0.025, (-0.83, 0.81, -0.77))),
    "many parts": fields.balls,
    "leaves the grid": sphere(1.15),
    "outside": lambda x: x.norm(dim=1) + 0.01,
    "inside": lambda x: x.norm(dim=1) - 3.0,
    "constant": lambda x: torch.ones(len(x)),
}


@pytest.mark.parametrize("grid", [uniform_grid(1.0, 128), skew_grid(101)], ids=["uniform", "turned"])
@pytest.mark.parametrize("name", FIELDS)
def test_mesh_is_the_dense_one(name, grid):
    field = FIELDS[name]
    dense = extract_dense(field, grid)
    sparse = extract_sparse(field, grid, block=40)
    assert_same_mesh(sparse.mesh, dense.mesh)
    assert sparse.num_samples == dense.evaluations == grid.num_samples
    if name != "many parts":
        assert sparse.evaluations < 0.2 * grid.num_samples


def test_discontinuous_field_gives_the_dense_mesh():
    step = lambda x: (x @ torch.tensor([1.0, 0.4, 0.2]) > 0.123).float() - 0.4  # noqa: E731
    grid = skew_grid(55)
    assert_same_mesh(extract_sparse(step, grid, block=24).mesh, extract_dense(step, grid).mesh)


def test_all_components_are_found():
    assert (
        len(fields.component_areas(extract_sparse(FIELDS["many parts"], uniform_grid(1.0, 128)).mesh)) == 125
    )
    assert len(fields.component_areas(extract_sparse(FIELDS["tiny far part"], skew_grid(101)).mesh)) == 2
    assert not extract_sparse(FIELDS["leaves the grid"], uniform_grid(1.0, 128)).mesh.is_watertight
    assert extract_sparse(FIELDS["outside"], uniform_grid(1.0, 128)).mesh is None


@pytest.mark.parametrize("block", [8, 24, 32, 48, 128])
def test_blocks_are_welded_into_one_mesh(block):
    grid = skew_grid(75)  # 75 x 85 x 102: no multiple of any block
    mesh = extract_sparse(fields.wiggly, grid, block=block).mesh
    assert_same_mesh(mesh, extract_dense(fields.wiggly, grid).mesh)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)


def test_one_block_gives_the_same_faces_in_the_same_order():
    grid = uniform_grid(1.0, 100)
    sparse, dense = extract_sparse(fields.wiggly, grid).mesh, extract_dense(fields.wiggly, grid).mesh
    np.testing.assert_array_equal(sparse.faces, dense.faces)
    np.testing.assert_allclose(sparse.vertices, dense.vertices, atol=1e-6)


def test_frame_is_the_dense_one():
    sparse, dense = (surface_frame(fields.wiggly, 1.0, 60, dense=dense) for dense in (False, True))
    assert sparse.shape == dense.shape
    np.testing.assert_allclose(sparse.axes, dense.axes, atol=1e-5)  # rounding of other batches of points
    np.testing.assert_allclose(sparse.origin, dense.origin, atol=1e-5)
    assert sparse.spacing == pytest.approx(dense.spacing, rel=1e-5)


def test_no_sample_is_evaluated_twice_and_the_count_is_exact():
    field, grid = Counted(fields.wiggly), skew_grid(90)
    result = extract_sparse(field, grid, chunk_points=777, block=16)
    assert set(field.points.values()) == {1}
    assert sum(field.calls) == result.evaluations < 0.2 * grid.num_samples
    assert max(field.calls) == 777
    everywhere = {tuple(point) for point in grid.points_at(torch.arange(grid.num_samples)).tolist()}
    assert field.points.keys() <= everywhere  # never beyond the grid


def test_same_field_gives_the_same_bits():
    first, second = (extract_sparse(fields.wiggly, skew_grid(80), block=24) for _ in range(2))
    np.testing.assert_array_equal(first.mesh.vertices, second.mesh.vertices)
    np.testing.assert_array_equal(first.mesh.faces, second.mesh.faces)
    assert first.evaluations == second.evaluations and first.slope_bounds == second.slope_bounds


def test_bounds_are_above_the_slopes_of_the_field():
    # 3 + 1 within the shell, of which the coarsest cells see half.
    least, most = extract_sparse(fields.steep_at_surface, uniform_grid(1.0, 128)).slope_bounds
    assert most > 4.0 and least >= most * refinement.MIN_SHARE * (1 - 1e-6) / refinement.SAFETY
    assert extract_sparse(torus(0.6, 0.2, 2.0), uniform_grid(1.0, 100)).slope_bounds[1] > 2.0


def test_the_number_of_evaluations_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, logger="idr.meshing"):
        result = extract_sparse(sphere(0.7), uniform_grid(1.0, 64))
    assert f"{result.evaluations:,} evaluations" in caplog.text and "of the grid's 262,144" in caplog.text
    assert "slopes bounded by 1." in caplog.text


def test_strides_halve_down_to_one():
    assert strides_of((512, 600, 700)) == [16, 8, 4, 2, 1]
    assert strides_of((100, 100, 100)) == [4, 2, 1]
    assert strides_of((300, 49, 300)) == [2, 1]
    assert strides_of((48, 300, 300)) == [1]


def test_small_and_dense_grids_are_evaluated_completely():
    field = Counted(sphere(0.5))
    assert extract_sparse(field, uniform_grid(1.0, 40)).evaluations == 40**3 == sum(field.calls)
    field = Counted(sphere(0.5))
    extract_mesh(field, uniform_grid(1.0, 60), dense=True)
    assert sum(field.calls) == 60**3


def test_field_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="not finite"):
        extract_sparse(
            lambda x: x.norm(dim=1) - 0.5 + torch.where(x[:, 0] > 0.99, torch.nan, 0.0), skew_grid(60)
        )
    with pytest.raises(ValueError, match="block = 20"):
        extract_sparse(sphere(0.5), uniform_grid(1.0, 60), block=20)


def test_memory_stays_below_that_of_the_volume():
    grid = uniform_grid(1.0, 320)
    tracemalloc.start()
    try:
        extract_sparse(sphere(0.5), grid, chunk_points=10_000, block=64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.9 * 4 * grid.num_samples, f"{peak / 2**20:.0f} MiB"


# Networks ------------------------------------------------------------------------------------------------


def network_4x64():
    """The SDF of a 4 x 64 network that is no sphere any more."""
    from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ImplicitNetworkConfig(3, 1, (64,) * 4, bias=0.6, skip_in=(2,), multires=6)
        network = ImplicitNetwork(0, config)
    roughen(network, 0.02, seed=1)
    return network.sdf


@pytest.mark.parametrize(("resolution", "share"), [(128, 0.10), (160, 0.072)])
def test_network_of_4_layers_of_64(resolution, share):
    field = network_4x64()
    grid = surface_frame(field, 1.0, resolution)
    dense, sparse = extract_dense(field, grid, 4000), extract_sparse(field, grid, 4000, block=64)
    assert_same_mesh(sparse.mesh, dense.mesh)
    assert sparse.evaluations < share * dense.evaluations


@pytest.mark.parametrize("name", golden.NAMES)
def test_trained_networks(name):
    field = golden.model(name).implicit_network.sdf
    grid = surface_frame(field, 1.0, 96)
    assert_same_mesh(extract_sparse(field, grid, block=48).mesh, extract_dense(field, grid).mesh)


# Planted faults ------------------------------------------------------------------------------------------


def samples_of(field, grid):
    return SurfaceSearch(GridSampler(field, grid)).run()


def test_planted_wrong_sign_in_skipped_cells_is_detected(monkeypatch):
    def fill_with_outside(volume):
        volume[np.isnan(volume)] = 1.0

    grid = uniform_grid(1.0, 100)
    samples = samples_of(sphere(0.7), grid)
    monkeypatch.setattr(blocks, "fill_missing", fill_with_outside)
    with pytest.raises(blocks.InconsistentSigns):
        blocks.mesh_blocks(samples, grid, 48)


def test_planted_missing_samples_on_a_block_side_are_detected(monkeypatch):
    whole = PagedValues.box

    def without_last_plane(self, start, size):
        box = whole(self, start, size)
        box[-1] = np.nan
        return box

    grid = uniform_grid(1.0, 100)
    samples = samples_of(fields.wiggly, grid)
    expected = extract_dense(fields.wiggly, grid).mesh
    assert_same_mesh(blocks.mesh_blocks(samples, grid, 48), expected)
    monkeypatch.setattr(PagedValues, "box", without_last_plane)
    with pytest.raises((AssertionError, blocks.InconsistentSigns)):
        assert_same_mesh(blocks.mesh_blocks(samples, grid, 48), expected)


def test_planted_unwelded_blocks_are_detected(monkeypatch):
    monkeypatch.setattr(blocks, "weld", lambda vertices, faces, block: (vertices, faces))
    grid = uniform_grid(1.0, 100)
    with pytest.raises(AssertionError):
        assert_same_mesh(
            extract_sparse(sphere(0.7), grid, block=48).mesh, extract_dense(sphere(0.7), grid).mesh
        )


def test_planted_small_bounds_lose_the_surface(monkeypatch):
    field, grid = FIELDS["tiny far part"], uniform_grid(1.0, 128)
    radii = SlopeBounds.radii
    monkeypatch.setattr(SlopeBounds, "radii", lambda self, regions, values: 4 * radii(self, regions, values))
    with pytest.raises(AssertionError):
        assert_same_mesh(extract_sparse(field, grid).mesh, extract_dense(field, grid).mesh)


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_signs_that_contradict_the_bounds_raise_them(monkeypatch, factor):
    field, grid = fields.wiggly, uniform_grid(1.0, 100)
    radii = SlopeBounds.radii
    monkeypatch.setattr(
        SlopeBounds, "radii", lambda self, regions, values: factor * radii(self, regions, values)
    )
    result = extract_sparse(field, grid, block=48)
    assert_same_mesh(result.mesh, extract_dense(field, grid).mesh)
