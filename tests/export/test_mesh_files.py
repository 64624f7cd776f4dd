"""Files of colored meshes, read back; textures, sampled at points of the surface."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import trimesh

from idr.errors import InputError, OutputError
from idr.export.colors import Colors
from idr.export.mesh_files import companions, write_surface
from idr.export.surface import Surface, srgb_to_linear
from idr.export.texture import bake, texels_of

BALL = trimesh.creation.icosphere(3)


def rgb_of(points):
    """A color for each direction; every channel takes all values, dark ones included."""
    return (points / np.linalg.norm(points, axis=1, keepdims=True) + 1) / 2


def surface():
    vertices = np.asarray(BALL.vertices)
    return Surface(vertices, np.asarray(BALL.faces), vertices, rgb_of(vertices))


def glb_parts(path):
    """The JSON of a GLB and its accessors by the specification, no reader between."""
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size = struct.unpack("<I", content[12:16])[0]
    tree = json.loads(content[20 : 20 + size])
    blob = content[28 + size :]
    dtypes = {5126: np.float32, 5125: np.uint32, 5123: np.uint16, 5121: np.uint8}
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}

    def array(index):
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        width = widths[accessor["type"]]
        count = accessor["count"] * width
        return np.frombuffer(blob, dtypes[accessor["componentType"]], count, start).reshape(-1, width)

    return tree, array


def test_glb_stores_linear_colors_and_is_unlit(tmp_path):
    write_surface(surface(), tmp_path / "ball.glb")
    tree, array = glb_parts(tmp_path / "ball.glb")
    (part,) = tree["meshes"][0]["primitives"]
    assert set(part["attributes"]) == {"POSITION", "NORMAL", "COLOR_0"}
    np.testing.assert_allclose(array(part["attributes"]["POSITION"]), BALL.vertices, atol=1e-6)
    np.testing.assert_allclose(array(part["attributes"]["NORMAL"]), BALL.vertices, atol=1e-6)
    np.testing.assert_array_equal(array(part["indices"]).reshape(-1, 3), BALL.faces)
    linear = array(part["attributes"]["COLOR_0"])
    assert linear.dtype == np.float32
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(shown[:, :3], rgb_of(BALL.vertices), atol=1e-5)
    assert tree["materials"][part["material"]]["extensions"] == {"KHR_materials_unlit": {}}
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]


def test_lit_glb_leaves_light_to_the_viewer(tmp_path):
    write_surface(surface(), tmp_path / "ball.glb", lit=True)
    tree, _ = glb_parts(tmp_path / "ball.glb")
    assert "extensionsUsed" not in tree and "extensions" not in tree["materials"][0]
    assert tree["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0.0


def test_srgb_by_its_fixed_points():
    np.testing.assert_allclose(
        srgb_to_linear(np.array([0, 0.04045, 0.5, 1])), [0, 0.0031308, 0.2140411, 1], atol=1e-6
    )


@pytest.mark.parametrize("ending", [".ply", ".obj"])
def test_ply_and_obj_store_srgb_colors(tmp_path, ending):
    path = tmp_path / f"ball{ending}"
    write_surface(surface(), path)
    mesh = trimesh.load(path, process=False)
    np.testing.assert_allclose(mesh.vertices, BALL.vertices, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, BALL.faces)
    np.testing.assert_allclose(mesh.vertex_normals, BALL.vertices, atol=1e-5)
    levels = np.asarray(mesh.visual.vertex_colors)[:, :3]
    np.testing.assert_allclose(levels, rgb_of(BALL.vertices) * 255, atol=0.51)


@pytest.mark.parametrize("upright", [None, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])])
@pytest.mark.parametrize("ending", [".ply", ".obj", ".glb"])
def test_detail_far_from_the_origin_is_kept(tmp_path, ending, upright):
    """A ball of 1 m at UTM coordinates; float32 would round its northing to 0.5 m."""
    to_utm = np.eye(4)
    to_utm[:3, 3] = 500_000.123, 4_200_000.456, 230.789
    path, far = tmp_path / f"ball{ending}", surface().moved(to_utm)
    before = far.vertices.copy()
    write_surface(far, path, upright=upright)
    mesh = trimesh.load(path, process=False, force="mesh")
    turn = np.eye(3) if upright is None or ending != ".glb" else upright
    np.testing.assert_allclose(mesh.vertices @ turn, BALL.vertices + to_utm[:3, 3], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(far.vertices, before)
    if ending == ".glb":  # the numbers in the file are small; the node's matrix has the rest
        tree, array = glb_parts(path)
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        normals = array(attributes["NORMAL"])
        assert np.abs(array(attributes["POSITION"])).max() < 3
    else:
        normals = trimesh.load(path, process=False).vertex_normals
    np.testing.assert_allclose(normals, BALL.vertices, atol=1e-5)


def test_ply_is_double_only_if_needed(tmp_path):
    for shift, kind in ((0.0, b"property float x\n"), (1e6, b"property double x\n")):
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        write_surface(surface().moved(matrix), tmp_path / "ball.ply")
        assert kind in (tmp_path / "ball.ply").read_bytes()[:200]


@pytest.mark.parametrize("ending", [".ply", ".obj", ".glb"])
def test_surface_without_colors(tmp_path, ending):
    path = tmp_path / f"ball{ending}"
    bare = surface()
    write_surface(Surface(bare.vertices, bare.faces, bare.normals), path)
    mesh = trimesh.load(path, process=False, force="mesh")
    assert len(mesh.faces) == len(BALL.faces) and mesh.visual.kind != "vertex"


@pytest.mark.parametrize("sign", [1, -1])
def test_moved_surface_stays_outward(sign):
    matrix = np.eye(4)
    matrix[:3, :3] = sign * 7 * trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])[:3, :3]
    matrix[:3, 3] = 10, -20, 30
    moved = surface().moved(matrix)
    outwards = (moved.vertices - matrix[:3, 3]) / 7
    np.testing.assert_allclose(moved.normals, outwards, atol=1e-9)
    mesh = trimesh.Trimesh(moved.vertices, moved.faces, process=False)
    assert mesh.volume == pytest.approx(7**3 * BALL.volume)


def coloring(points, normals):
    assert points.shape == normals.shape
    return Colors(rgb_of(points).astype(np.float32), 0)


@pytest.fixture(scope="module")
def baked():
    pytest.importorskip("xatlas", reason="extra idr-surface[mesh] is not installed")
    return bake(surface(), 512, coloring)


def looked_up(texture, uv):
    """Colors by bilinear interpolation, the origin in the lower left corner, texels' centers at halves."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = 0
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            row, column = (top + dy).clip(0, height - 1), (left + dx).clip(0, width - 1)
            total = total + weight[:, None] * texture[row, column]
    return total / 255


def points_and_uv(vertices, faces, uv):
    """Points all over the faces, corners and edges included, and where they are in the texture."""
    rng = np.random.default_rng(0)
    inside = rng.dirichlet([1, 1, 1], size=len(faces))
    corners = np.eye(3)[rng.integers(0, 3, len(faces))]
    for weights in (inside, corners):
        yield np.einsum("tk,tkd->td", weights, vertices[faces]), np.einsum("tk,tkd->td", weights, uv[faces])


def test_texture_has_the_color_of_each_point(baked):
    done = baked.surface
    assert done.texture.shape == (512, 512, 3) and 0.3 < baked.used < 1
    assert len(done.faces) == len(BALL.faces) and done.uv.min() >= 0 and done.uv.max() <= 1
    for points, uv in points_and_uv(done.vertices, done.faces, done.uv):
        # Bilinear lookup at a seam mixes in a texel up to two away; a texel spans some 0.01 of color.
        np.testing.assert_allclose(looked_up(done.texture, uv), rgb_of(points), atol=0.03)


@pytest.mark.parametrize("ending", [".glb", ".obj"])
def test_textured_files_read_back(tmp_path, baked, ending):
    path = tmp_path / f"ball{ending}"
    write_surface(baked.surface, path)
    assert sorted(tmp_path.iterdir()) == sorted(companions(path, True))
    mesh = trimesh.load(path, process=False, force="mesh")
    material = mesh.visual.material
    picture = material.baseColorTexture if ending == ".glb" else material.image
    texture = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(texture, baked.surface.texture)
    for points, uv in points_and_uv(mesh.vertices, mesh.faces, np.asarray(mesh.visual.uv)):
        np.testing.assert_allclose(looked_up(texture, uv), rgb_of(points), atol=0.03)


def test_texels_lie_in_their_faces_and_slivers_get_one():
    uv = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.951, 0.951], [0.952, 0.951], [0.951, 0.952]])
    texels = texels_of(uv, np.array([[0, 1, 2], [3, 4, 5]]), 20)
    places = np.column_stack(((texels.columns + 0.5) / 20, 1 - (texels.rows + 0.5) / 20))
    shown = (uv[np.array([[0, 1, 2], [3, 4, 5]])[texels.faces]] * texels.weights[..., None]).sum(axis=1)
    assert np.abs(places - shown).max() <= 0.5 / 20 + 1e-9, "each shows a point within itself"
    assert (texels.faces == 1).sum() == 1
    centered = np.abs(places - shown).max(axis=1) < 1e-9
    half = sum(1 for x in range(20) for y in range(20) if 2 <= x and 2 <= y and x + y + 1 <= 20)
    assert centered.sum() == half
    assert len(np.unique(texels.rows * 20 + texels.columns)) == len(texels.rows)


@pytest.mark.parametrize(
    "name, message", [("ball.off", "ending in .glb, .obj, .ply"), ("ball.ply", "PLY holds no texture")]
)
def test_unsupported_file_names_are_refused(tmp_path, name, message):
    textured = Surface(
        **(
            vars(surface())
            | {"uv": np.zeros((len(BALL.vertices), 2)), "texture": np.zeros((4, 4, 3), np.uint8)}
        )
    )
    with pytest.raises(InputError, match=message):
        write_surface(textured, tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_a_file_in_place_of_a_folder_is_reported(tmp_path):
    (tmp_path / "taken").write_text("here")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_surface(surface(), tmp_path / "taken" / "ball.glb")
    assert (tmp_path / "taken").read_text() == "here"
