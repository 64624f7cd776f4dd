"""Turnable scenes hold the mesh that was given, and diagrams the curves, in small."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import trimesh

from idr.geometry.cameras import project_points
from idr.pictures.curves import diagram, ticks
from idr.pictures.turntable import Body, Lines, frustums, turntable


def scene_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def decoded(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


@pytest.mark.parametrize("subdivisions, kind", [(3, "<u2"), (7, "<u4")])
def test_a_body_keeps_its_shape_and_colors(subdivisions, kind):
    ball = trimesh.creation.icosphere(subdivisions)  # of 162 or 163842 vertices
    colors = (ball.vertices + 1) / 2
    moved = Body("ball", 5 * ball.vertices + [100, 0, 0], ball.faces, ball.vertex_normals, colors)
    segment = np.array([[[100, 0, 0], [100, 10, 0]]])
    scene = scene_of(turntable([moved], [Lines("</script>", "#112233", segment)]))
    (body,) = scene["bodies"]
    assert body["wide"] == (kind == "<u4")
    points = decoded(body["points"], "<i2").reshape(-1, 3) / 32767
    np.testing.assert_allclose(points, ball.vertices, atol=2e-3)  # its box is about the center
    np.testing.assert_array_equal(decoded(body["faces"], kind).reshape(-1, 3), ball.faces)
    np.testing.assert_allclose(decoded(body["colors"], "u1").reshape(-1, 3) / 255, colors, atol=0.002)
    np.testing.assert_allclose(decoded(body["normals"], "i1").reshape(-1, 3) / 127, ball.vertices, atol=0.03)
    (line,) = scene["lines"]
    assert line["name"] == "</script>" and line["reach"] == pytest.approx(2, abs=0.01)


def test_a_scene_without_surface_shows_its_lines():
    lines = [Lines("a", "#112233", np.ones((1, 2, 3))), Lines("b", "#112233", np.zeros((0, 2, 3)))]
    scene = scene_of(turntable([], lines))
    assert scene["bodies"] == [] and [line["name"] for line in scene["lines"]] == ["a"]


def test_frustums_are_seen_by_their_cameras():
    pose = np.eye(4)
    pose[:3, :3] = trimesh.transformations.euler_matrix(0.3, 0.2, 0.1)[:3, :3]
    pose[:3, 3] = [1, 2, 3]
    edges = frustums(pose[None])
    assert edges.shape == (8, 2, 3)
    np.testing.assert_allclose(edges[:4, 0], np.tile(pose[:3, 3], (4, 1)))  # from the center to four corners
    uv, depth = project_points(edges[:4, 1], np.linalg.inv(pose)[:3])
    assert (depth > 0).all()
    np.testing.assert_allclose(np.abs(uv), np.tile([0.6, 0.45], (4, 1)), rtol=1e-6)


def test_a_diagram_puts_values_where_its_labels_say():
    epochs = np.arange(5.0)
    drawn = diagram("PSNR (dB)", epochs, {"psnr": np.array([10, 20, np.nan, 30, 40.0])})
    places = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn.lines[0].path)]
    rows = {text: place for place, text in drawn.rows}
    columns = {text: place for place, text in drawn.columns}
    known = ("0", "10"), ("1", "20"), ("3", "30"), ("4", "40")
    expected = [(columns[epoch], rows[value]) for epoch, value in known]
    np.testing.assert_allclose(places, expected, atol=0.06)
    assert re.sub(r"[\d. ]", "", drawn.lines[0].path) == "MLML"  # a gap at the NaN
    assert (drawn.lines[0].first, drawn.lines[0].last) == ("10", "40")


def test_a_logarithmic_diagram_and_one_value():
    curves = {"a": np.array([1.0, 0.1, 0.0]), "b": np.full(3, np.nan)}
    drawn = diagram("loss", np.arange(3.0), curves, logarithmic=True)
    rows = {text: place for place, text in drawn.rows}
    assert [line.name for line in drawn.lines] == ["a"] and rows["1"] < rows["0.1"]
    assert diagram("x", np.zeros(1), {"a": np.ones(1)}).lines[0].path.startswith("M")
    assert diagram("x", np.zeros(1), {"a": np.full(1, np.nan)}) is None
    assert ticks(0, 113, 5) == [0, 50, 100]
    assert ticks(-0.1, 0.1, 5) == pytest.approx([-0.1, -0.05, 0, 0.05, 0.1])
