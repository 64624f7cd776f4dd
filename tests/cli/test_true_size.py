"""``--scale_by``, ``idr board`` and meshes in meters, through their command lines."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.importers import boards

from idr.cli.import_scene import main
from idr.cli.photos import board
from idr.cli.photos import command as photos
from idr.geometry.cameras import decompose_projection
from idr.importers.true_size.board import draw_page, make_board

BALL, CENTER = 0.04, np.array([*boards.SIZE / 2, -0.06])
"""Meters: the object above the board."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDR's layout: photographs of the board, and masks of a ball."""
    folder = tmp_path_factory.mktemp("board") / "source"
    views = boards.source(folder / "image", 8).views
    (folder / "mask").mkdir()
    shell = np.random.default_rng(0).standard_normal((2000, 3))
    shell = CENTER + BALL * shell / np.linalg.norm(shell, axis=1, keepdims=True)
    cameras = {}
    for k, (view, pose) in enumerate(zip(views, boards.poses(8), strict=True)):
        mask = np.zeros((boards.HEIGHT, boards.WIDTH), np.uint8)
        pixels = np.array([boards.pixel_of(point, pose) for point in shell])
        cv2.fillConvexPoly(mask, cv2.convexHull(np.round(pixels).astype(np.int32)), 255)
        cv2.imwrite(str(folder / "mask" / f"{k}.png"), mask)
        cameras[f"world_mat_{k}"] = np.vstack([view.intrinsics @ view.world_to_camera, [0, 0, 0, 1]])
    np.savez(folder / "cameras.npz", **cameras)
    return folder


def centers(scene: Path) -> np.ndarray:
    arrays = np.load(scene / "cameras.npz")
    return np.array([decompose_projection(arrays[f"world_mat_{k}"][:3])[1][:3, 3] for k in range(8)])


def test_an_imported_scene_is_in_meters_and_says_so(source: Path, tmp_path: Path, capsys) -> None:
    scene, points = tmp_path / "data" / "mine" / "scan0", tmp_path / "points.npy"
    on_ball = CENTER + BALL * np.eye(3)[np.arange(30) % 3]
    np.save(points, boards.world_from(on_ball))
    argv = [str(source), "--out", str(scene), "--scale_by", "board", "--points", str(points)]
    assert main(argv) == 0
    line = capsys.readouterr().out.split("true size: the unit of the source is ")[1]
    assert float(line.split(" m,")[0]) == pytest.approx(boards.UNIT, rel=0.005)
    record = json.loads((scene / "import.json").read_text())
    assert record["unit"] == "m" and 0 < record["true_size"]["relative_error"] < 0.005
    true = np.array([pose[:3, 3] for pose in boards.poses(8)])
    found = centers(scene)
    for first, second in ((0, 3), (1, 6)):
        distance = np.linalg.norm(true[first] - true[second])
        assert np.linalg.norm(found[first] - found[second]) == pytest.approx(distance, rel=0.005)
    radius = np.load(scene / "cameras.npz")["scale_mat_0"][0, 0]
    assert BALL < radius < 3 * BALL and record["sphere"]["radius"] == pytest.approx(radius)
    kept = np.load(scene / "points.npz")["points_world"]
    np.testing.assert_allclose(kept, boards.world_from(on_ball) * boards.UNIT, rtol=0.005)
    again = tmp_path / "data" / "mine" / "scan1"  # the scene as a source stays in meters
    assert main([str(scene), "--out", str(again)]) == 0
    copied = json.loads((again / "import.json").read_text())
    assert copied["unit"] == "m" and copied["true_size"]["origin"] == record["true_size"]["origin"]
    np.testing.assert_allclose(centers(again), found, atol=1e-9)


def test_without_a_measure_the_unit_stays_unnamed(source: Path, tmp_path: Path) -> None:
    scene = tmp_path / "data" / "mine" / "scan0"
    assert main([str(source), "--out", str(scene)]) == 0
    assert not {"unit", "true_size"} & set(json.loads((scene / "import.json").read_text()))


def test_mistakes_end_both_commands_and_write_nothing(source: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data" / "scan0"
    for command, folder in ((main, out), (photos.main, tmp_path / "result")):
        assert command([str(source), "--out", str(folder), "--scale_by", "board:0.025"]) == 2
        assert "a square of 0.025 mm; expected" in capsys.readouterr().err
    assert main([str(source), "--out", str(out), "--scale_by", "board", "--scale_by", "cameras:0,1=9"]) == 2
    assert "measure both again" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("paper", "millimeters"), [("a4", (210.0, 297.0)), ("letter", (215.9, 279.4))])
@pytest.mark.parametrize("tags", board.TAGS)
def test_the_printed_board_has_its_true_size(
    tags: str, paper: str, millimeters: tuple, tmp_path: Path, capsys
) -> None:
    flags = [] if tags == "aruco" else ["--tags", tags]
    out = tmp_path / "board.pdf"
    assert board.main(["--paper", paper, "--side", "20", "--out", str(out), *flags]) == 0
    content = out.read_bytes()
    box = content[content.index(b"MediaBox [") + 10 :].split(b"]")[0].split()
    found = np.array(box[2:], dtype=float) / 72 * 25.4
    np.testing.assert_allclose(found, millimeters, atol=0.1)
    page, dpi = draw_page(paper, 20.0, tags)
    assert page.size == pytest.approx(found / 25.4 * dpi, abs=1)
    gray = np.asarray(page.convert("L"))
    black = np.flatnonzero((gray == 0).any(axis=0))
    squares = gray[:, black[0] : black[-1] + 1]
    rows = np.flatnonzero((squares[:, :10] == 0).all(axis=1))
    assert (np.ptp(rows) + 1) / dpi * 25.4 == pytest.approx(9 * 20, abs=0.1)  # the outer squares are black
    assert len(black) / dpi * 25.4 == pytest.approx(7 * 20, abs=0.1)
    assert board.main(["--out", str(out)]) == 2  # replaces nothing
    assert out.read_bytes() == content
    assert board.main(["--side", "40", "--out", str(tmp_path / "large.pdf")]) == 2
    assert "does not fit a4 paper; expected at most 27" in capsys.readouterr().err


@pytest.mark.parametrize("tags", board.TAGS)
def test_a_photograph_of_the_page_shows_the_board(tags: str) -> None:
    page, dpi = draw_page("a4", 25.0, tags)
    shrunk = np.asarray(page.convert("L").resize((page.width // 4, page.height // 4), Image.Resampling.BOX))
    corners, numbers, _, _ = cv2.aruco.CharucoDetector(make_board(tags)).detectBoard(shrunk)
    assert len(numbers) == 48
    apart = np.linalg.norm(corners.reshape(-1, 2)[1] - corners.reshape(-1, 2)[0])
    assert apart * 4 / dpi * 25.4 == pytest.approx(25.0, rel=0.005)
