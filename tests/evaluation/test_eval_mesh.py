"""Scores of meshes against meshes, point clouds and a miniature DTU scan, each with an independent oracle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import trimesh

from idr.cli import eval_mesh
from idr.evaluation import dtu
from idr.evaluation.chamfer import mesh_scores
from idr.evaluation.dtu import points_on_triangles, thin_points

BOX, RESOLUTION = np.array([[0.0, 0.0, 0.0], [8.0, 8.0, 8.0]]), 1.0


def square(height: float, low: float = 0.0, high: float = 4.0) -> trimesh.Trimesh:
    corners = [[low, low, height], [high, low, height], [high, high, height], [low, high, height]]
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


@pytest.fixture
def miniature(tmp_path):
    """A scan of random points, a mask with holes, a tilted plane, in the official layout."""
    generator = np.random.default_rng(3)
    scan = generator.uniform([-3, -3, -2], [9, 9, 3], (300, 3))
    scan[:40] += [0, 0, 60]  # farther than 20 mm from all of the mesh
    observed = generator.random((9, 9, 9)) < 0.6
    plane = np.array([0.1, 0.0, 1.0, 0.4])
    (tmp_path / "Points" / "stl").mkdir(parents=True)
    (tmp_path / "ObsMask").mkdir()
    trimesh.PointCloud(scan).export(tmp_path / "Points" / "stl" / "stl007_total.ply")
    scipy.io.savemat(
        tmp_path / "ObsMask" / "ObsMask7_10.mat",
        {"ObsMask": observed.astype(np.uint8), "BB": BOX, "Res": RESOLUTION},
    )
    scipy.io.savemat(tmp_path / "ObsMask" / "Plane7.mat", {"P": plane[:, None]})
    mesh = trimesh.util.concatenate([square(0.3, -2.0, 3.0), square(30.0, 0.0, 1.0), square(200.0, 0.0, 2.0)])
    mesh.export(tmp_path / "ours.ply")
    # What was written, as single precision rounds it.
    return tmp_path, scan.astype(np.float32).astype(np.float64), observed, plane


def protocol(points, scan, observed, plane):
    """The protocol's text, one point at a time; `points` are the thinned ones."""
    in_box = [x for x in points if all(BOX[0][a] - 60 <= x[a] and x[a] < BOX[1][a] + 120 for a in range(3))]
    accuracy = []
    for x in in_box:
        voxel = [round(float((x[a] - BOX[0][a]) / RESOLUTION)) for a in range(3)]
        if all(0 <= voxel[a] < observed.shape[a] for a in range(3)) and observed[tuple(voxel)]:
            accuracy.append(min(np.sqrt(((scan - x) ** 2).sum(axis=1))))
    completeness = [
        min(np.sqrt(((np.array(in_box) - y) ** 2).sum(axis=1))) for y in scan if plane @ [*y, 1.0] > 0
    ]
    assert max(completeness) > 20  # else the cut is not tried
    return [float(np.mean([d for d in side if d < 20])) for side in (accuracy, completeness)]


def test_dtu_protocol_equals_its_description(miniature, capsys):
    folder, scan, observed, plane = miniature
    assert eval_mesh.main([f"{folder}/ours.ply", "--dtu", str(folder), "--scan_id", "7", "--seed", "5"]) == 0
    found = json.loads((folder / "ours_scores.json").read_text())
    mesh = trimesh.load(folder / "ours.ply", process=False)
    points = thin_points(points_on_triangles(mesh, 0.2), 0.2, np.random.default_rng(5))
    accuracy, completeness = protocol(points, scan, observed, plane)
    assert found["accuracy"] == pytest.approx(accuracy, rel=1e-9)
    assert found["completeness"] == pytest.approx(completeness, rel=1e-9)
    assert found["overall"] == pytest.approx((accuracy + completeness) / 2, rel=1e-9)
    line = f"DTU EVALUATION 7: accuracy = {accuracy:.3f} ; completeness = {completeness:.3f} ; overall = "
    assert line in capsys.readouterr().out
    first = (folder / "ours_scores.json").read_bytes()
    eval_mesh.main([f"{folder}/ours.ply", "--dtu", str(folder), "--scan_id", "7", "--seed", "5"])
    assert (folder / "ours_scores.json").read_bytes() == first


def test_scores_replace_scores_only(miniature, capsys):
    folder = miniature[0]
    path, flags = folder / "ours_scores.json", [f"{folder}/ours.ply", "--reference", f"{folder}/ours.ply"]
    path.write_text('{"scores": "mine"}')
    assert eval_mesh.main(flags) == 2 and "add --force to replace it" in capsys.readouterr().err
    assert path.read_text() == '{"scores": "mine"}'
    assert eval_mesh.main([*flags, "--force"]) == 0 == eval_mesh.main(flags)


@pytest.mark.parametrize(
    "name", ["Points/stl/stl007_total.ply", "ObsMask/ObsMask7_10.mat", "ObsMask/Plane7.mat"]
)
def test_missing_or_broken_official_data(miniature, capsys, name):
    folder = miniature[0]
    command = [f"{folder}/ours.ply", "--dtu", str(folder), "--scan_id", "7"]
    (folder / name).write_bytes(b"nothing of the kind")
    assert eval_mesh.main(command) == 2
    assert name in capsys.readouterr().err
    (folder / name).unlink()
    assert eval_mesh.main(command) == 2
    error = capsys.readouterr().err
    assert f"no file {folder / name}" in error and "roboimagedata.compute.dtu.dk" in error
    assert not (folder / "ours_scores.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"BB": "box"}, {"BB": BOX.astype(complex)}, {"BB": BOX[::-1]}, {"BB": {"x": 1.0}}, {"Res": np.inf},
        {"Res": -1.0}, {"ObsMask": scipy.sparse.csc_matrix(np.eye(3))}, {"ObsMask": np.eye(3)},
    ],
)  # fmt: skip
def test_official_data_of_other_types(miniature, capsys, change):
    folder = miniature[0]
    path = folder / "ObsMask" / "ObsMask7_10.mat"
    content = {"ObsMask": np.ones((9, 9, 9)), "BB": BOX, "Res": RESOLUTION} | change
    scipy.io.savemat(path, content)
    assert eval_mesh.main([f"{folder}/ours.ply", "--dtu", str(folder), "--scan_id", "7"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and next(iter(change)) in error and "roboimagedata.compute.dtu.dk" in error


def test_thinning_leaves_neither_gaps_nor_neighbors():
    points = points_on_triangles(square(0.0), 0.2)
    kept = thin_points(points, 0.2, np.random.default_rng(0))
    apart = np.linalg.norm(kept[:, None] - kept, axis=2) + 9 * np.eye(len(kept))
    assert apart.min() >= 0.2 - 1e-12
    assert np.linalg.norm(points[:, None] - kept, axis=2).min(axis=1).max() < 0.2


def test_thinning_equals_a_slow_loop(monkeypatch):
    monkeypatch.setattr(dtu, "_CHUNK", 100)  # many chunks, so that they meet
    points = np.random.default_rng(1).uniform(0, 2, (900, 3))
    slow = []
    for point in points[np.random.default_rng(2).permutation(900)]:
        if all(np.linalg.norm(point - other) >= 0.2 for other in slow):
            slow.append(point)
    assert 100 < len(slow) < 800
    np.testing.assert_array_equal(thin_points(points, 0.2, np.random.default_rng(2)), slow)


def test_completeness_includes_unobserved_points(miniature):
    folder, scan, observed, plane = miniature
    reference = dtu.read_reference(folder, 7)
    mesh = trimesh.load(folder / "ours.ply", process=False)
    whole = dtu.dtu_scores(mesh, reference)
    corner = np.zeros_like(observed)
    corner[:2, :2] = True
    few = dtu.dtu_scores(mesh, replace(reference, observed=corner))
    assert few.num_observed < whole.num_observed
    assert few.completeness == whole.completeness and few.accuracy != whole.accuracy


def test_parallel_squares_have_their_distance():
    scores = mesh_scores(square(0.0), square(0.5), threshold=0.49, num_samples=500)
    assert (scores.accuracy, scores.completeness) == pytest.approx((0.5, 0.5))
    assert (scores.precision, scores.recall, scores.f_score) == (0, 0, 0)
    assert mesh_scores(square(0.0), square(0.5), threshold=0.51, num_samples=500).f_score == 1


def test_half_the_reference_is_recalled():
    half = trimesh.Trimesh([[0, 0, 0], [4, 0, 0], [4, 4, 0]], [[0, 1, 2]], process=False)
    scores = mesh_scores(half, square(0.0), threshold=1e-6, num_samples=20_000)
    assert scores.precision == 1 and scores.recall == pytest.approx(0.5, abs=0.015)  # 4 standard errors
    assert scores.f_score == pytest.approx(2 * scores.recall / (1 + scores.recall))


def test_cloud_counts_each_point_once():
    cloud = trimesh.PointCloud([[1.0, 1.0, 0.25], [2.0, 3.0, 1.75]])
    scores = mesh_scores(square(0.0), cloud, threshold=1.0, num_samples=2000)
    assert scores.completeness == pytest.approx(1.0) and scores.recall == 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "one of --reference"),
        (["--dtu", "x"], "belong together"),
        (["--reference", "none.ply"], "no file none.ply"),
        (["--reference", "MESH", "--threshold", "-1"], "expected a positive distance"),
    ],
)
def test_bad_input(tmp_path, capsys, arguments, message):
    square(0.0).export(tmp_path / "a.ply")
    words = [str(tmp_path / "a.ply") if word == "MESH" else word for word in arguments]
    assert eval_mesh.main([str(tmp_path / "a.ply"), *words]) == 2
    assert message in capsys.readouterr().err
