"""USDZ as OpenUSD reads it: geometry, frame, colors, texture; the message without usd-core."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from idr.cli.export_mesh import _factor
from idr.datasets.record import TrueSize
from idr.errors import MissingInputError
from idr.export import usdz
from idr.export.mesh_files import check_formats, write_surface
from idr.export.surface import Surface, srgb_to_linear

UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # z becomes y


def make_surface(textured: bool = False) -> Surface:
    """A box of 2 x 3 x 4, far from the origin, of varying colors."""
    box = trimesh.creation.box((2.0, 3.0, 4.0))
    vertices, colors = box.vertices + [100, 200, 300], (np.sign(box.vertices) + 1) / 4 + 0.25
    if not textured:
        return Surface(vertices, box.faces, box.vertex_normals, colors)
    texture = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    return Surface(vertices, box.faces, box.vertex_normals, None, colors[:, :2], texture)


def test_without_usd_core_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pxr.Usd", None)
    check_formats([tmp_path / "a.usdz"], textured=True)
    with pytest.raises(MissingInputError, match=r"pip install 'idr-surface\[usd\]'"):
        write_surface(make_surface(), tmp_path / "a.usdz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lit", [False, True])
@pytest.mark.parametrize("textured", [False, True])
def test_usdz_is_read_as_written(textured: bool, lit: bool, tmp_path: Path) -> None:
    usd, geom, shade = (pytest.importorskip(f"pxr.{name}") for name in ("Usd", "UsdGeom", "UsdShade"))
    surface, path = make_surface(textured), tmp_path / "a.usdz"
    path.write_bytes(usdz.usdz_content(surface, lit, UPRIGHT, scale=0.01))
    stage = usd.Stage.Open(str(path))
    assert geom.GetStageUpAxis(stage) == "Y" and geom.GetStageMetersPerUnit(stage) == 1.0
    mesh = geom.Mesh(stage.GetPrimAtPath("/object/surface"))
    points, faces = np.array(mesh.GetPointsAttr().Get()), np.array(mesh.GetFaceVertexIndicesAttr().Get())
    shape = trimesh.Trimesh(points, faces.reshape(-1, 3), process=False)
    np.testing.assert_allclose(shape.bounds, [[-0.01, 0, -0.015], [0.01, 0.04, 0.015]], atol=1e-6)
    assert shape.volume == pytest.approx(24e-6, rel=1e-4)  # faces are outward
    normals = np.array(mesh.GetNormalsAttr().Get())
    assert ((points - [0, 0.02, 0]) * normals).sum(axis=1).min() > 0
    material = shade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()[0]
    shader = material.ComputeSurfaceSource()[0]
    source = shader.GetInput("diffuseColor" if lit else "emissiveColor").GetConnectedSource()[0]
    assert shade.Shader(source.GetPrim()).GetIdAttr().Get() == (
        "UsdUVTexture" if textured else "UsdPrimvarReader_float3"
    )
    values = geom.PrimvarsAPI(mesh)
    if textured:
        np.testing.assert_allclose(values.GetPrimvar("st").Get(), surface.uv, atol=1e-6)
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".png")]
            image = np.asarray(Image.open(io.BytesIO(archive.read(name))))
        np.testing.assert_array_equal(image, surface.texture)
    else:
        colors = np.array(values.GetPrimvar("displayColor").Get())
        np.testing.assert_allclose(colors, srgb_to_linear(surface.colors), atol=1e-6)


def test_a_scene_without_true_size_is_shown_at_the_size_of_a_table_top(capsys: pytest.CaptureFixture) -> None:
    surface, size = make_surface(), TrueSize(1.0, None, "the printed board")
    assert 4.0 * _factor(".usdz", surface, None) == pytest.approx(0.25)
    assert "no true size" in capsys.readouterr().out
    assert [_factor(ending, surface, size) for ending in (".usdz", ".glb", ".stl")] == [1, 1, 1000]
    assert _factor(".stl", surface, None) == 1 and capsys.readouterr().out == ""
