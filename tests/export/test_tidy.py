"""Components, holes and decimation on meshes with exact counts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import trimesh

from idr.errors import MissingInputError
from idr.export.mesh_files import glb_content
from idr.export.surface import Surface
from idr.export.tidy import boundary_loops, close_holes, decimate, faces_of_glb, tidy, wholeness


def spheres(*radii):
    """Balls apart, as one mesh."""
    parts = [
        trimesh.creation.icosphere(3, radius).apply_translation([4 * k, 0, 0])
        for k, radius in enumerate(radii)
    ]
    return trimesh.util.concatenate(parts)


def punctured(*vertices):
    """A ball without the faces around some vertices."""
    mesh = trimesh.creation.icosphere(3)
    keep = ~np.isin(mesh.faces, vertices).any(axis=1)
    return trimesh.Trimesh(mesh.vertices, mesh.faces[keep], process=False)


@pytest.mark.parametrize("share, count", [(1.0, 1), (0.0, 3), (0.2, 2), (0.3, 1)])
def test_components_are_kept_by_area(share, count):
    tidied = tidy(spheres(0.5, 1.0, 0.1), min_component=share)  # areas 0.25, 1 and 0.01
    assert tidied.components == (3, count)
    assert len(trimesh.graph.connected_components(tidied.mesh.edges)) == count
    assert len(np.unique(tidied.mesh.faces)) == len(tidied.mesh.vertices), "no vertex is left over"
    middle = tidied.mesh.vertices[:, 0] > 2.5
    assert middle.any()


def test_hole_boundaries_are_found():
    mesh = trimesh.creation.icosphere(3)
    assert boundary_loops(mesh.faces) == []
    # The first twelve vertices have five neighbors, all others six.
    loops = boundary_loops(punctured(0, 100).faces)
    assert sorted(len(loop) for loop in loops) == [5, 6]
    assert {frozenset(loop) for loop in loops} == {frozenset(mesh.vertex_neighbors[v]) for v in (0, 100)}


def test_holes_that_touch_are_closed_too():
    mesh = trimesh.creation.icosphere(3)
    first = 100
    second = next(
        v for v in range(12, len(mesh.vertices))
        if len(set(mesh.vertex_neighbors[v]) & set(mesh.vertex_neighbors[first])) == 1
        and v not in mesh.vertex_neighbors[first]
    )  # fmt: skip
    closed, _ = close_holes(punctured(first, second), np.inf)
    assert closed.is_watertight and closed.is_winding_consistent


@pytest.mark.parametrize("limit, closed", [(0, 0), (5, 1), (6, 2), (np.inf, 2)])
def test_holes_are_closed_by_their_size(limit, closed):
    mesh, holes = close_holes(punctured(0, 100), limit)
    assert holes == (2, closed)
    assert mesh.is_watertight == (closed == 2)
    if closed == 2:
        assert mesh.is_winding_consistent and mesh.volume > 0
        assert mesh.volume == pytest.approx(trimesh.creation.icosphere(3).volume, rel=0.01)


def test_decimated_vertices_stay_on_the_surface():
    pytest.importorskip("fast_simplification", reason="extra idr-surface[mesh] is not installed")
    mesh = trimesh.creation.icosphere(5)
    small = decimate(mesh, 1000)
    assert 900 <= len(small.faces) <= 1010
    assert small.is_watertight and small.volume > 0
    # Faces with corners 0.1 from their middle dip by 0.1^2 / 2; the least squares solution shares that out.
    np.testing.assert_allclose(np.linalg.norm(small.vertices, axis=1), 1, atol=0.01)
    assert tidy(mesh, num_faces=10**6).faces == (20480, 20480), "never more than there are"


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(
        MissingInputError, match=r"reducing the faces needs fast_simplification.*'idr-surface\[mesh\]'"
    ):
        decimate(trimesh.creation.icosphere(2), 10)


@pytest.mark.parametrize("max_bytes", [12_000, 100_000, 500_000])
def test_as_many_faces_as_fit_into_a_file(max_bytes):
    pytest.importorskip("fast_simplification")
    reduced = tidy(trimesh.creation.icosphere(5), num_faces=faces_of_glb(max_bytes)).mesh
    colors = np.full_like(reduced.vertices, 0.5)
    surface = Surface(reduced.vertices, reduced.faces, reduced.vertex_normals, colors)
    assert 0.75 * max_bytes < len(glb_content(surface, lit=False)) <= max_bytes


def test_wholeness_counts_components_and_causes():
    assert wholeness(spheres(1.0)) == "yes, 1 component"
    assert wholeness(spheres(1.0, 0.5)) == "yes, 2 components"
    remedy = "export_mesh.py --holes fill closes the holes"
    assert wholeness(punctured(0, 100)) == f"no, 11 open edges, 1 component; {remedy}"
    boxes = trimesh.util.concatenate([trimesh.creation.box() for _ in range(2)])
    boxes.merge_vertices()  # two boxes in one place: four faces at each edge
    assert wholeness(boxes).startswith("no, 18 edges of more than two faces")
