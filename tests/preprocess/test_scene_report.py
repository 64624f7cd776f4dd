"""The scene report: the hull's mesh compared with a known solid, warnings, size, self-containedness."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from idr.datasets.record import TrueSize
from idr.preprocess import scene_report
from idr.preprocess.scene_check import SceneCheck, check_scene
from idr.preprocess.scene_report import hull_mesh, scene_figure, write_scene_report
from idr.preprocess.visual_hull import SceneHull
from tests.preprocess import scenes


def write(folder: Path, centers: np.ndarray, radius: float = 2.0, **options: object) -> SceneCheck:
    """Writes and checks views of the unit ball with a sphere of some radius around the origin."""
    views = scenes.ellipsoid_views(centers, **options)
    arrays = {}
    for k, mask in enumerate(views.masks):
        for kind, image in (
            ("image", np.full((*mask.shape, 3), 90, np.uint8)),
            ("mask", mask * np.uint8(255)),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / kind / views.names[k]), image)
        arrays[f"world_mat_{k}"] = np.vstack([views.projections[k], [0, 0, 0, 1]])
        arrays[f"scale_mat_{k}"] = np.diag([radius, radius, radius, 1.0])
    np.savez(folder / "cameras.npz", **arrays)
    return check_scene(folder, "cameras.npz")


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> SceneCheck:
    return write(tmp_path_factory.mktemp("ball"), scenes.sphere_centers(12))


def test_hull_mesh_is_closed_and_has_the_volume_of_the_samples() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    axes *= np.sign(np.linalg.det(axes))
    steps = np.arange(-14, 15) * 0.1
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    local = grid[np.linalg.norm(grid / [1.2, 0.9, 0.6], axis=1) < 1]
    shift = np.array([5.0, -3.0, 2.0])
    mesh = hull_mesh(SceneHull(local @ axes.T + shift, 0.1, 9, False, shift, 1.0), axes)
    # Marching cubes cuts the corners of the cells; smoothing keeps the volume.
    assert mesh.is_watertight and mesh.volume == pytest.approx(len(local) * 1e-3, rel=0.08)
    np.testing.assert_allclose(mesh.center_mass, shift, atol=0.01)
    extents = ((mesh.vertices - shift) @ axes).max(axis=0)
    np.testing.assert_allclose(extents, [1.2, 0.9, 0.6], atol=0.1)


def test_mesh_of_a_single_sample() -> None:
    mesh = hull_mesh(SceneHull(np.ones((1, 3)), 0.5, 2, False, np.ones(3), 1.0), np.eye(3))
    assert mesh.is_watertight and np.abs(mesh.vertices - 1).max() <= 0.25


def test_page_of_a_sound_scene(ball: SceneCheck, tmp_path: Path) -> None:
    assert write_scene_report(ball, tmp_path / "a.html", "mine/<scan1>") == ()
    text = (tmp_path / "a.html").read_text()
    assert "<h1>mine/&lt;scan1&gt;</h1>" in text and "are consistent" in text
    assert text.count('<img src="data:image/jpeg;base64,') == 12
    assert re.search(r"view 11, 011\.png, IoU (0\.99\d|1\.000)", text)
    assert "unit sphere: radius in world units (scale)</td><td>2</td>" in text
    assert "plotly" not in text and "meter" not in text and len(text) < 1_500_000
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']?(https?:)?//", text)
    write_scene_report(ball, tmp_path / "b.html", "mine/<scan1>")
    assert (tmp_path / "b.html").read_bytes() == (tmp_path / "a.html").read_bytes()


def test_true_size_is_that_of_the_hull(ball: SceneCheck, tmp_path: Path) -> None:
    size = TrueSize(0.01, 0.002, "the printed board")
    write_scene_report(ball, tmp_path / "a.html", "x", true_size=size)
    text = (tmp_path / "a.html").read_text()
    pattern = r"hull measures ([\d.]+) × ([\d.]+) × ([\d.]+) m ± 0\.20%, by the printed board"
    found = re.search(pattern, text)
    assert [float(side) for side in found.groups()] == pytest.approx([2.0] * 3, rel=0.06)  # of radius 1
    cube = np.array([[x, y, z] for x in (0, 0.004) for y in (0, 0.003) for z in (0, 0.002)])
    assert TrueSize(1.0, None, "gps").of_box(cube) == "4 x 3 x 2 mm, by gps"


def test_figure_is_upright_in_unit_sphere_coordinates(ball: SceneCheck) -> None:
    hull = hull_mesh(ball.hull, ball.views.poses[0, :3, :3])
    scene = json.loads(re.search(r"json\">(.*?)</script>", scene_figure(ball, hull), re.S)[1])
    assert [line["name"] for line in scene["lines"] if line["on"]] == ["cameras", "unit sphere"]
    # Bodies have radius 1: a hull of radius 1 in a sphere of radius 2, seen from a distance of 5.
    cameras, sphere = (
        np.frombuffer(base64.b64decode(line["points"]), "<f4").reshape(-1, 2, 3) for line in scene["lines"]
    )
    radius = np.linalg.norm(sphere, axis=-1).mean()
    assert radius == pytest.approx(2.0, rel=0.1)  # the hull is larger than the ball
    centers = cameras.reshape(12, 8, 2, 3)[:, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 2.5 * radius, rtol=0.01)
    assert centers[0, 2] == pytest.approx(np.linalg.norm(centers[0, [0, 2]]), rel=1e-3)  # in front


def test_warnings_are_listed(tmp_path: Path) -> None:
    # Cameras so close that the image border cuts off the ball, and a sphere that is too small.
    check = write(tmp_path / "scan1", scenes.ring_centers(5, distance=2.6), radius=0.8)
    more = ["masks were guessed", f"{check.findings[0].text}, says the sphere"]
    warnings = write_scene_report(check, tmp_path / "a.html", "x", more)
    assert warnings == (*map(str, check.findings), "masks were guessed")
    assert any(warning.startswith("object-outside-sphere: ") for warning in warnings)
    assert "masks were guessed" in warnings
    assert any("5 views: fewer than 8" in warning for warning in warnings)
    text = (tmp_path / "a.html").read_text()
    assert "mask touches the image's border" in html.unescape(text)
    assert "cameras of views with warnings" in text
    order = [text.index(f"<h2>{title}") for title in ("Findings", "Photographs", "Cameras", "The scene")]
    assert order == sorted(order)
    items = re.findall(r"<li class=.*?>(.*?)</li>", text)
    pattern = r'<b>(.+?)</b> <span class="quiet">(.+?)</span>'
    assert [re.match(pattern, item).groups() for item in items[:-1]] == [
        (finding.name, "must be mended" if finding.is_severe else "limits the result")
        for finding in check.findings
    ]
    assert all("<b>What to do:</b>" in item for item in items[:-1]) and items[-1] == "masks were guessed"
    assert sum("masks-touch-border" in item for item in items) == 1


def test_page_of_a_scene_without_hull(tmp_path: Path) -> None:
    centers = scenes.sphere_centers(12)
    write(tmp_path, centers)
    for k in range(12):
        mask = np.zeros(scenes.IMAGE_SIZE, np.uint8)
        row, column = np.random.default_rng(k).integers([70, 100])
        mask[row : row + 8, column : column + 8] = 255
        cv2.imwrite(str(tmp_path / "mask" / f"{k:03d}.png"), mask)
    check = check_scene(tmp_path, "cameras.npz")
    assert check.hull is None
    warnings = write_scene_report(check, tmp_path / "a.html", "x")
    assert any(warning.startswith("masks-and-cameras-contradict") for warning in warnings)
    assert "Cameras, unit sphere and no hull" in (tmp_path / "a.html").read_text()


def test_images_fit_the_size_limit_whatever_they_show(ball: SceneCheck, tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)

    def noise(check: SceneCheck, k: int, border: object, width: int, titled: bool) -> np.ndarray:
        return rng.integers(0, 256, (3 * width // 4, width, 3), np.uint8)

    monkeypatch.setattr(scene_report, "draw_small", noise)
    monkeypatch.setattr(scene_report, "IMAGES_BYTES", 120_000)
    write_scene_report(ball, tmp_path / "a.html", "x")
    images = re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', (tmp_path / "a.html").read_text())
    assert len(images) == 12 and 40_000 < sum(map(len, images)) <= 120_000
