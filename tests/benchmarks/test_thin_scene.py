"""`benchmarks/thin_scene.py`: exact rays, and measurement of kept and lost rods."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from idr.datasets.scene_dataset import SceneDataset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def thin_scene(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import thin_scene

    return thin_scene


def inside(points, cylinder):
    x, y, radius, bottom, top = cylinder
    across = np.hypot(points[..., 0] - x, points[..., 1] - y)
    return (across <= radius) & (points[..., 2] >= bottom) & (points[..., 2] <= top)


def test_first_hits_equal_dense_sampling(thin_scene) -> None:
    generator = np.random.default_rng(0)
    cylinder, origin = np.array([0.2, -0.1, 0.3, -0.5, 0.4]), np.array([1.5, 1.0, 1.2])
    targets = generator.uniform(-0.8, 0.8, (400, 3))
    directions = (targets - origin) / np.linalg.norm(targets - origin, axis=1, keepdims=True)
    depth, normals = thin_scene.hit_cylinder(origin, directions, cylinder)
    along = np.arange(0.5, 4, 1e-3)
    steps = inside(origin + along[:, None, None] * directions, cylinder)
    slow = np.where(steps.any(axis=0), along[steps.argmax(axis=0)], np.inf)
    hit = np.isfinite(depth)
    # Dense sampling may miss a chord shorter than a step.
    assert (hit != np.isfinite(slow)).mean() < 0.01 and 100 < hit.sum() < 390
    both = hit & np.isfinite(slow)
    assert (np.abs(depth[both] - slow[both]) <= 1e-3).all()
    np.testing.assert_allclose(np.linalg.norm(normals[hit], axis=1), 1, atol=1e-9)
    outward = origin + depth[hit, None] * directions[hit] + 1e-6 * normals[hit]
    assert not inside(outward, cylinder).any()
    assert ((normals[hit] * directions[hit]).sum(axis=1) < 0).all()


def test_a_ray_along_the_axis_hits_the_flat_end(thin_scene) -> None:
    depth, normals = thin_scene.hit_cylinder(
        np.array([0.0, 0.0, 2.0]), np.array([[0.0, 0.0, -1.0]]), np.array([0.0, 0.0, 0.1, -0.5, 0.5])
    )
    assert depth[0] == 1.5 and normals[0].tolist() == [0, 0, 1]


def test_the_scene_can_be_read_and_rods_have_their_thickness(
    thin_scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        thin_scene, "SETTINGS", thin_scene.SceneSettings(num_views=3, num_holdout=0, supersampling=2)
    )
    thin_scene.write(tmp_path / "thin" / "scan1")
    scene = SceneDataset(False, "thin", [128, 160], 1, data_root=str(tmp_path))
    middle = scene.masks[1].reshape(128, 160)  # the view from the side: rows cross the rods
    runs = np.diff(np.flatnonzero(np.diff(middle[40].int().numpy(), prepend=0, append=0))[:12])[::2]
    assert 7 <= runs.max() <= 11  # the thickest rod, 8 pixels wide at the center of the scene
    with pytest.raises(ValueError, match="exists; choose another"):
        thin_scene.write(tmp_path / "thin" / "scan1")


def run_of(cylinders):
    """A run with the signed distance of infinite upright rods."""

    def sdf(points):
        distances = [np.hypot(points[..., 0] - c[0], points[..., 1] - c[1]) - c[2] for c in cylinders]
        return np.min(distances, axis=0)

    return SimpleNamespace(sdf=sdf)


def test_kept_rods_have_their_length_and_thickness(thin_scene) -> None:
    rods = thin_scene.cylinders()[1:]
    for rod in rods:
        found = thin_scene.cut_rod(run_of(rods), rod)
        assert found["kept"] == 1
        # The area is sampled with 41 points along a side of the window.
        assert found["diameter"] == pytest.approx(1, abs=0.05)


def test_lost_thin_and_short_rods_are_measured(thin_scene) -> None:
    rod = thin_scene.cylinders()[3]
    elsewhere, half = rod.copy(), rod.copy()
    elsewhere[0] += rod[2] * 2 + 2 * thin_scene.PIXEL
    half[2] /= 2
    assert thin_scene.cut_rod(run_of([elsewhere]), rod) == {"kept": 0.0, "diameter": None}
    assert thin_scene.cut_rod(run_of([half]), rod)["diameter"] == pytest.approx(0.5, abs=0.05)
    whole = run_of([rod]).sdf
    short = SimpleNamespace(sdf=lambda points: np.where(points[..., 2] < 0, whole(points), 1.0))
    share = (-rod[3] - thin_scene.PIXEL) / (rod[4] - rod[3] - 2 * thin_scene.PIXEL)
    assert thin_scene.cut_rod(short, rod)["kept"] == pytest.approx(share, abs=0.01)


def test_without_arguments_the_exit_status_is_2(warm_python: Path) -> None:
    done = subprocess.run(
        [warm_python, str(BENCHMARKS / "thin_scene.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "expected --write FOLDER, --runs RUN" in done.stderr
