"""The length of a source's unit, recovered from rendered boards, marked points, cameras and GPS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idr.errors import InputError, MissingInputError
from idr.geometry.alignment import fit_similarity
from idr.importers.true_size import gps
from idr.importers.true_size.measures import parse_measure, to_meters
from idr.importers.true_size.observations import triangulate, undistorted
from tests.importers import boards

LENS = np.array([-0.16, 0.05, 0.004, -0.006])


def scaled(source, *texts, folder=Path()):
    return to_meters(source, [parse_measure(text) for text in texts], folder, lambda line: None)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return boards.source(tmp_path_factory.mktemp("plain") / "images")


@pytest.fixture(scope="module")
def distorted(tmp_path_factory):
    return boards.source(tmp_path_factory.mktemp("distorted") / "images", 4, LENS)


@pytest.fixture(scope="module")
def april(tmp_path_factory):
    return boards.source(tmp_path_factory.mktemp("april") / "images", 4, LENS, tags="april")


@pytest.mark.parametrize(("scene", "count"), [("plain", 6), ("distorted", 4), ("april", 4)])
def test_the_board_gives_the_unit_within_half_a_percent(scene, count, request):
    source = request.getfixturevalue(scene)
    size = scaled(source, "board").true_size
    assert size.meters_per_unit == pytest.approx(boards.UNIT, rel=0.002)
    assert abs(size.meters_per_unit / boards.UNIT - 1) < 5 * size.relative_error < 0.01
    assert f" corners in {count} photographs" in size.origin
    *up, height = size.ground  # the board's plane, now in meters
    np.testing.assert_allclose(up, boards.WORLD_TURN @ [0, 0, -1], atol=1e-3)
    corner = boards.world_from(np.array([0.1, 0.1, 0.0])) * size.meters_per_unit
    assert np.dot(up, corner) == pytest.approx(height, abs=1e-3)
    half = scaled(source, "board:12.5").true_size  # a board printed at half the size
    assert half.meters_per_unit == pytest.approx(size.meters_per_unit / 2)


def test_cameras_points_and_sphere_are_in_meters(plain):
    points = boards.world_from(np.random.default_rng(0).standard_normal((5, 3)))
    source = type(plain)("made", plain.views, points, np.diag([2.0, 2.0, 2.0, 1.0]))
    centers = [pose[:3, 3] for pose in boards.poses()]
    distance = np.linalg.norm(centers[0] - centers[2])
    found = scaled(source, f"cameras:0.png,2={distance}")
    for old, new in zip(source.views, found.views, strict=True):
        seen = [(p @ v.world_to_camera[:, :3].T + v.world_to_camera[:, 3])
                for p, v in ((points, old), (found.points, new))]  # fmt: skip
        np.testing.assert_allclose(seen[1], seen[0] * boards.UNIT)  # same rays, depth in meters
    new = [-v.world_to_camera[:, :3].T @ v.world_to_camera[:, 3] for v in found.views]
    assert np.linalg.norm(new[1] - new[4]) == pytest.approx(np.linalg.norm(centers[1] - centers[4]))
    assert found.scale_mat[0, 0] == pytest.approx(2 * boards.UNIT)
    assert found.scale_mat[3].tolist() == [0, 0, 0, 1]


def marked(path, lens=None, meters=0.1, shift=0.0, images=(0, 1, 3)):
    ends = np.array([[0.03, 0.05, 0.0], [0.03, 0.15, 0.0]])
    poses = boards.poses(6 if lens is None else 4)
    points = [{f"{k}.png": boards.pixel_of(end, poses[k], lens) for k in images} for end in ends]
    points[1]["1.png"][1] += shift
    path.write_text(json.dumps({"meters": meters, "points": points}))
    return f"points:{path}"


@pytest.mark.parametrize(("scene", "lens"), [("plain", None), ("distorted", LENS)])
def test_two_marked_points_give_the_unit(scene, lens, tmp_path, request):
    source = request.getfixturevalue(scene)
    size = scaled(source, marked(tmp_path / "two.json", lens)).true_size
    assert size.meters_per_unit == pytest.approx(boards.UNIT, rel=1e-5)
    assert 0.001 < size.relative_error < 0.03  # a pixel is 0.7 mm here
    with pytest.raises(InputError, match=r"point 2 misses its pixels by \d+% of the image; expected"):
        scaled(source, marked(tmp_path / "off.json", lens, shift=60.0))


def test_measures_must_agree_with_the_first(plain, tmp_path):
    points = marked(tmp_path / "two.json")
    assert "board" in scaled(plain, "board", points).true_size.origin
    with pytest.raises(InputError, match=r"board:50 makes the scene 2 times as large .* measure both again"):
        scaled(plain, points, "board:50")


@pytest.mark.parametrize("count", [0, 1])
def test_a_board_in_fewer_than_two_photographs_is_refused(count, tmp_path):
    source = boards.source(tmp_path / "images", 3, with_board=count)
    with pytest.raises(InputError, match=f"board: {count} of 3 photographs show .*print it with idr board"):
        scaled(source, "board")


def test_a_board_that_moved_is_refused(plain):
    views = list(plain.views)
    for k in (1, 2):  # as if the board had moved by 5 cm
        moved = views[k].world_to_camera.copy()
        moved[:, 3] += moved[:, :3] @ boards.WORLD_TURN @ [0.05 / boards.UNIT, 0, 0.02 * k / boards.UNIT]
        views[k] = type(views[k])(views[k].name, views[k].image, boards.K, moved)
    with pytest.raises(InputError, match="keep the board still beside the object"):
        scaled(type(plain)("made", tuple(views)), "board")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("board:0.025", "a square of 0.025 mm; expected .* in millimeters, 5 to 500"),
        ("board:x", "got the length 'x'; expected a positive number"),
        ("ruler", "expected board, board:MM, cameras:"),
        ("cameras:a,b", "expected board, board:MM, cameras:"),
        ("cameras:a,a=1", "two different images"),
        ("cameras:0,9=1", "no image 9 among the 6 with cameras; expected one of 0.png"),
        ("cameras:0,1=-1", "got the length '-1'; expected a positive number"),
        ("gps", "0 of 6 photographs have a GPS position; expected at least 4"),
    ],
)
def test_mistakes_are_refused_with_a_remedy(plain, text, message):
    with pytest.raises(InputError, match=message):
        scaled(plain, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file .*; expected a JSON file"),
        ("{", "is not as expected"),
        ('{"meters": 0, "points": []}', "meters is 0; expected a positive number"),
        ('{"meters": 1, "points": [{"a": [1, 2]}, {"a": [1, 2], "b": [1, 2]}]}', "marked in 1 and 2 images"),
        ('{"meters": 1, "points": [{"a": [1], "b": [1, 2]}, {"a": [1, 2], "b": [1, 2]}]}', "pixel in a is"),
    ],
)
def test_files_of_points_are_checked(content, message, tmp_path):
    path = tmp_path / "two.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises((InputError, MissingInputError), match=message):
        parse_measure(f"points:{path}")


def with_gps(folder, radius, noise):
    """Photographs in a circle around a place near Graz, and their camera centers in meters."""
    folder.mkdir()
    generator, files, centers = np.random.default_rng(3), [], []
    for k, turn in enumerate(np.linspace(0, 2 * np.pi, 12, endpoint=False)):
        east, north, up = radius * np.cos(turn), radius * np.sin(turn), 3.0 * (k % 3)
        centers.append([east, north, up])
        east, north, up = np.array([east, north, up]) + noise * generator.standard_normal(3)
        latitude = 47.07 + north / 111_177  # meters of a degree at this latitude, from tables
        longitude = 15.44 + east / 75_950
        exif = Image.Exif()
        exif[0x8825] = {1: "N", 2: sexagesimal(latitude), 3: "E", 4: sexagesimal(longitude)}
        exif[0x8825] |= {5: b"\0", 6: 350 + up}
        files.append(folder / f"{k}.jpg")
        Image.new("RGB", (8, 8)).save(files[-1], exif=exif)
    return np.array(centers), files


def sexagesimal(degrees):
    minutes = degrees % 1 * 60
    return (float(int(degrees)), float(int(minutes)), minutes % 1 * 60)


def test_gps_gives_a_rough_unit(tmp_path):
    centers, files = with_gps(tmp_path / "exact", 30.0, 0.0)
    unit, error, count = gps.unit_in_meters(boards.world_from(centers), files)
    assert unit == pytest.approx(boards.UNIT, rel=2e-3) and error < 2e-3 and count == 12
    centers, files = with_gps(tmp_path / "noisy", 30.0, 3.0)
    unit, error, _ = gps.unit_in_meters(boards.world_from(centers), files)
    assert abs(unit / boards.UNIT - 1) < 3 * error < 0.3
    centers, files = with_gps(tmp_path / "near", 5.0, 0.0)
    with pytest.raises(InputError, match=r"span 1\d\.\d m; expected at least 20 m"):
        gps.unit_in_meters(centers, files)


def test_a_similarity_is_recovered_exactly():
    points = np.random.default_rng(1).standard_normal((7, 3))
    fit = fit_similarity(points, boards.world_from(points))
    assert fit.scale == pytest.approx(1 / boards.UNIT)
    np.testing.assert_allclose(fit.rotation, boards.WORLD_TURN, atol=1e-12)
    np.testing.assert_allclose(fit.translation, boards.WORLD_SHIFT)


def test_the_covariance_of_a_point_is_that_of_repeated_trials():
    point, generator = np.array([0.08, 0.1, 0.0]), np.random.default_rng(2)
    poses = boards.poses(3)
    projections = np.stack([boards.K @ np.linalg.inv(pose)[:3] for pose in poses])
    exact = np.array([boards.pixel_of(point, pose) for pose in poses])
    trials = [triangulate(exact + 0.5 * generator.standard_normal((3, 2)), projections) for _ in range(800)]
    found = np.cov(np.array([trial.point for trial in trials]).T) / 0.5**2
    # 800 trials have a variance within 5 % of the true one (one standard error).
    np.testing.assert_allclose(np.diag(found), np.diag(triangulate(exact, projections).covariance), rtol=0.2)


def test_a_lens_is_inverted_or_refused():
    lens = boards.distortion(LENS)
    points = np.random.default_rng(4).uniform(-0.5, 0.5, (50, 2))
    np.testing.assert_allclose(undistorted(lens, lens(points)), points, atol=1e-6)
    folded = boards.distortion(np.array([-0.5, 0.0, 0.0, 0.0]))  # reaches no further than 0.54
    assert np.isnan(undistorted(folded, np.array([[0.9, 0.0]]))).all()
