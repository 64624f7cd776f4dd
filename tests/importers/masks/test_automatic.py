"""Automatic masks, scored on scenes with known masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.importers import spots
from tests.preprocess.scenes import real_scene

from idr.errors import InputError
from idr.geometry.cameras import project_points
from idr.importers.masks import automatic
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.carving import other_views_outlines
from idr.importers.masks.colors import color_odds
from idr.importers.masks.seeds import looking_point, seeds_from_cameras, seeds_from_points
from idr.importers.recognize import read_source
from idr.preprocess.scene_views import make_views

K = np.array([[150.0, 0, 61.3], [0, 146.0, 50.2], [0, 0, 1]])
SIZE = (spots.HEIGHT, spots.WIDTH)


def projections(count: int = 8) -> np.ndarray:
    matrices = []
    for pose in spots.camera_to_world(count):
        rotation = pose[:3, :3].T
        matrices.append(K @ np.column_stack([rotation, -rotation @ pose[:3, 3]]))
    return np.stack(matrices)


def truth(projection: np.ndarray) -> np.ndarray:
    return spots.silhouette(lambda points: project_points(points, projection)[0]) > 0


def ball_photographs(matrices: np.ndarray) -> list[np.ndarray]:
    """A textured red ball in front of textured green."""
    generator = np.random.default_rng(3)
    images = []
    for matrix in matrices:
        texture = cv2.GaussianBlur(generator.normal(0, 60, (*SIZE, 3)), (0, 0), 3)
        colors = np.where(truth(matrix)[..., None], [170.0, 60, 50], [70.0, 110, 60]) + texture
        images.append(np.clip(colors, 0, 255).astype(np.uint8))
    return images


def ious(masks: tuple[np.ndarray, ...], true: list[np.ndarray]) -> np.ndarray:
    return np.array([(a & b).sum() / (a | b).sum() for a, b in zip(masks, true, strict=True)])


@pytest.mark.parametrize("with_points", [True, False])
def test_masks_of_a_ball(with_points: bool) -> None:
    matrices = projections()
    shell = np.random.default_rng(1).standard_normal((60, 3))
    points = spots.BALL * shell / np.linalg.norm(shell, axis=1, keepdims=True) if with_points else None
    photographs = ball_photographs(matrices)
    names = [f"view {k}" for k in range(len(matrices))]
    made = make_masks(photographs, names, matrices, points)
    assert ious(made.masks, [truth(m) for m in matrices]).min() > 0.95
    assert made.agreement.min() > 0.7  # the hull of seven views is somewhat larger than the ball
    again = make_masks(photographs, names, matrices, points)
    assert all((a == b).all() for a, b in zip(made.masks, again.masks, strict=True))


def test_the_outline_is_found_in_larger_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = projections()
    photographs, true = ball_photographs(matrices), [truth(m) for m in matrices]
    names = [f"view {k}" for k in range(len(matrices))]

    def worst(coarse: int, fine: int) -> float:
        monkeypatch.setattr(automatic, "COARSE_SIDE", coarse)
        monkeypatch.setattr(automatic, "FINE_SIDE", fine)
        return float(ious(make_masks(photographs, names, matrices, None).masks, true).min())

    small, both, large = worst(48, 48), worst(48, max(SIZE)), worst(max(SIZE), max(SIZE))
    assert small < both - 0.005
    assert both == pytest.approx(large, abs=0.005)


def test_the_hull_of_the_other_views_bounds_a_mask() -> None:
    matrices = projections()
    masks = [truth(m) for m in matrices]
    corrupted = masks[3].copy()
    corrupted[:, :40] = True
    views = make_views(tuple("abcdefgh"), tuple(masks[:3] + [corrupted] + masks[4:]), matrices)
    seeds = seeds_from_cameras(matrices, [SIZE] * 8)
    outline = other_views_outlines(views, seeds)[3]
    assert (outline & masks[3]).sum() / masks[3].sum() > 0.97  # contains the object
    assert outline[:, :20].sum() < 0.1 * corrupted[:, :20].sum()  # but not what only this view claims


def test_looking_point() -> None:
    center = looking_point(projections())
    assert np.linalg.norm(center - 0.05 * np.array([1, -1, 0.5]) / 4) < 0.3
    with pytest.raises(InputError, match="look in the same direction"):
        looking_point(np.stack([projections()[0]] * 3))


def test_seeds_ignore_outliers() -> None:
    shell = np.random.default_rng(1).standard_normal((100, 3))
    shell *= 0.8 / np.linalg.norm(shell, axis=1, keepdims=True)
    clean = seeds_from_points(shell, projections(), [SIZE] * 8)
    noisy = seeds_from_points(np.vstack([shell, [[7.0, 0, 0], [0, 9, 0]]]), projections(), [SIZE] * 8)
    assert noisy.radius == pytest.approx(clean.radius, rel=0.1)
    assert noisy.regions[2].sum() == pytest.approx(clean.regions[2].sum(), rel=0.05)


def test_color_histograms_cover_all_views() -> None:
    red, green = np.full((20, 20, 3), [200, 20, 20], np.uint8), np.full((20, 20, 3), [20, 200, 20], np.uint8)
    mixed = np.hstack([red[:, :10], green[:, 10:]])
    left = np.zeros((20, 20), bool)
    left[:, :10] = True
    unlabelled = [np.zeros((20, 20), np.uint8)] * 2
    odds = color_odds([mixed, red], (left, ~np.zeros((20, 20), bool)), unlabelled)
    assert odds[1].min() > 1  # red is always inside
    assert odds[0][:, 10:].max() < -1


def test_two_views_are_refused() -> None:
    matrices = projections()[:2]
    with pytest.raises(InputError, match="at least three"):
        make_masks(ball_photographs(matrices), ["a", "b"], matrices, None)


@pytest.mark.parametrize("with_points", [True, False])
@pytest.mark.parametrize(
    ("scene", "step", "mean", "worst"), [("DTU/scan65", 6, 0.96, 0.9), ("temple/scan1", 2, 0.96, 0.93)]
)
def test_real_scenes(
    scene: str, step: int, mean: float, worst: float, with_points: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are targets; over all views of scan 65, mean and worst IoU with points are 0.98 and 0.86.

    Masks at half the size cost a third of the time and 0.005 of the mean IoU.
    """
    monkeypatch.setattr(automatic, "FINE_SIDE", 240)
    monkeypatch.setattr(automatic, "COARSE_SIDE", 240)
    folder: Path = real_scene(scene)
    views = read_source(folder).views[::step]
    points = np.load(folder / "sift_points.npz")["points_world"] if with_points else None
    photographs = [cv2.cvtColor(cv2.imread(str(v.image)), cv2.COLOR_BGR2RGB) for v in views]
    matrices = np.stack([v.intrinsics @ v.world_to_camera for v in views])
    made = make_masks(photographs, [v.name for v in views], matrices, points)
    scores = ious(made.masks, [cv2.imread(str(v.mask), 0) > 127 for v in views])
    assert scores.mean() >= mean and scores.min() >= worst, scores.round(3)
