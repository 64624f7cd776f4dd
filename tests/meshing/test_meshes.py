"""Components and files."""

from __future__ import annotations

import os

import numpy as np
import pytest
import trimesh

from idr.errors import OutputError
from idr.meshing import component_areas, largest_component, write_mesh


def big_and_fine():
    """A cube of 12 faces and area 24 beside a small sphere of 1280 faces."""
    cube = trimesh.creation.box(extents=(2, 2, 2))
    crumb = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    crumb.apply_translation([5, 0, 0])
    return trimesh.util.concatenate([crumb, cube])


def test_largest_component_is_by_area_not_by_faces():
    kept = largest_component(big_and_fine())
    assert len(kept.faces) == 12 and len(kept.vertices) == 8
    assert kept.is_watertight and kept.volume == pytest.approx(8.0)


def test_component_areas_against_trimesh():
    mesh = big_and_fine()
    expected = sorted((piece.area for piece in mesh.split()), reverse=True)
    np.testing.assert_allclose(component_areas(mesh), expected)


def test_connected_mesh_and_unused_vertices():
    cube = trimesh.creation.box()
    assert largest_component(cube) is cube
    loose = trimesh.Trimesh(np.vstack((cube.vertices, [[9, 9, 9]])), cube.faces, process=False)
    assert len(component_areas(loose)) == 1


def test_file_reads_back_with_vertex_normals(tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    path = tmp_path / "ball.ply"
    write_mesh(ball, path)
    assert b"property float nx" in path.read_bytes()[:500]
    loaded = trimesh.load(path, process=False)
    np.testing.assert_allclose(loaded.vertices, ball.vertices, atol=1e-6)
    np.testing.assert_array_equal(loaded.faces, ball.faces)
    np.testing.assert_allclose(loaded.vertex_normals, ball.vertices / 0.3, atol=5e-3)
    assert os.listdir(tmp_path) == ["ball.ply"]


def test_unwritable_file_is_reported(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="file stands where a folder is needed"):
        write_mesh(trimesh.creation.box(), tmp_path / "file" / "ball.ply")


def test_detail_far_from_the_origin_is_kept(tmp_path):
    """A ball of 1 m at UTM coordinates, where float32 has steps of 0.5 m."""
    ball = trimesh.creation.icosphere(2)
    ball.apply_translation([500_000.123, 4_200_000.456, 230.789])
    write_mesh(ball, tmp_path / "ball.ply")
    read = trimesh.load(tmp_path / "ball.ply", process=False)
    np.testing.assert_array_equal(read.vertices, ball.vertices)
    np.testing.assert_array_equal(read.faces, ball.faces)
    np.testing.assert_allclose(read.vertex_normals, ball.vertex_normals, atol=1e-6)
