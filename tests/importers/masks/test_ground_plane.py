"""The table that an object stands on, found from sparse points and told from what stands on it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from tests.importers import textured

from idr.errors import InputError
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.ground_plane import Table, find_table
from idr.importers.masks.seeds import Seeds, seeds_from_cameras
from idr.importers.masks.sparse_points import LARGEST_ERROR, neighbor_pairs, sparse_points, triangulated

SIZE = (textured.HEIGHT, textured.WIDTH)
K = np.array(
    [
        [textured.FOCAL, 0, (textured.WIDTH - 1) / 2],
        [0, textured.FOCAL, (textured.HEIGHT - 1) / 2],
        [0, 0, 1],
    ]
)
CORNERS = textured.BOX * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


def projections(poses: np.ndarray) -> np.ndarray:
    return np.stack([K @ np.linalg.inv(pose)[:3] for pose in poses])


def pixels(points: np.ndarray, projection: np.ndarray) -> np.ndarray:
    homogeneous = points @ projection[:, :3].T + projection[:, 3]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def silhouette(projection: np.ndarray) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    outline = cv2.convexHull(np.round(pixels(CORNERS, projection)).astype(np.int32))
    cv2.fillConvexPoly(mask, outline, 1)
    return mask.astype(bool)


def colorless(poses: np.ndarray) -> list[np.ndarray]:
    """Photographs in which box and ground have the same colors: the blotches' grays, evened out."""
    pictures = []
    for pose in poses:
        picture = textured.photograph(pose).astype(np.float32)
        box = silhouette(K @ np.linalg.inv(pose)[:3])
        gray = np.where(box, picture[..., 0] / 250, picture[..., 2] / 230) * 200
        pictures.append(np.repeat(gray[..., None], 3, axis=2).clip(0, 255).astype(np.uint8))
    return pictures


@pytest.fixture(scope="module")
def box() -> tuple[list[np.ndarray], np.ndarray]:
    poses = textured.poses(12, step_degrees=30.0)
    return colorless(poses), projections(poses)


def scattered(seed: int, on_table: int, on_object: int) -> np.ndarray:
    """Points on the ground z = -0.5, on a ball that stands on it, and some that are nowhere."""
    generator = np.random.default_rng(seed)
    ground = np.column_stack([generator.uniform(-2, 2, (on_table, 2)), np.full(on_table, -0.5)])
    ball = generator.standard_normal((on_object, 3))
    ball *= 0.5 / np.linalg.norm(ball, axis=1, keepdims=True)
    wrong = generator.uniform(-1.5, 1.5, (max(3, (on_table + on_object) // 50), 3)) + [0, 0, 1.2]
    return np.vstack([ground, ball, wrong])


def test_matches_give_back_their_points_and_wrong_ones_are_dropped() -> None:
    first, second = projections(textured.poses(2))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (30, 3))
    a, b = pixels(points, first), pixels(points, second)
    np.testing.assert_allclose(triangulated(a, b, first, second), points, atol=1e-6)
    direction = np.roll(b, 1, axis=0) - b  # mixed up, hence off the epipolar lines, but for a few
    assert len(triangulated(a, b + direction, first, second)) <= 3
    moved = triangulated(a, b + [0.0, 4 * LARGEST_ERROR], first, second)
    assert len(moved) == 0


def test_each_view_is_paired_with_near_ones_that_are_not_too_near() -> None:
    poses = textured.poses(5, step_degrees=10)
    poses = np.concatenate([poses, poses[:1]])  # the first one again
    pairs = neighbor_pairs(projections(poses), np.zeros(3))
    assert (0, 5) not in pairs and (0, 1) in pairs and (1, 5) in pairs
    assert len(set(pairs)) == len(pairs) and all(i < j for i, j in pairs)


def test_a_table_is_found_wherever_the_world_is() -> None:
    points, cameras = scattered(0, 300, 200), textured.poses(8, step_degrees=45)
    seeds = Seeds(np.zeros(3), 1.0, ())
    plane = find_table(points, seeds, projections(cameras))
    assert plane is not None
    assert plane.normal @ [0, 0, 1] > 0.9999 and plane.offset == pytest.approx(-0.5, abs=2e-3)
    turn, scale, shift = Rotation.from_rotvec([0.4, -1.0, 2.0]).as_matrix(), 7.0, np.array([30.0, -5, 11])
    moved = cameras.copy()
    moved[:, :3, :3] = turn @ cameras[:, :3, :3]
    moved[:, :3, 3] = scale * cameras[:, :3, 3] @ turn.T + shift
    elsewhere = find_table(scale * points @ turn.T + shift, Seeds(shift, scale, ()), projections(moved))
    assert elsewhere is not None
    np.testing.assert_allclose(elsewhere.normal, turn @ plane.normal, atol=1e-3)
    np.testing.assert_allclose(elsewhere.height(scale * turn @ [0, 0, -0.5] + shift), 0, atol=0.02)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (scattered(0, 0, 400), "a ball alone has no plane that many points lie on"),
        (scattered(0, 300, 200) * [1, 1, -1], "a ceiling: the object hangs below it"),
        (scattered(0, 20, 15), "too few points"),
        (scattered(0, 300, 200) - [0, 0, 2.0], "too far below the object"),
    ],
)
def test_no_table_is_made_up(points: np.ndarray, why: str) -> None:
    cameras = projections(textured.poses(8, step_degrees=45))
    assert find_table(points, Seeds(np.zeros(3), 1.0, ()), cameras) is None, why


def test_cameras_on_both_sides_see_no_table() -> None:
    poses = textured.poses(8, step_degrees=45)
    poses[3, :3, 3] *= [1, 1, -1]
    assert find_table(scattered(0, 300, 200), Seeds(np.zeros(3), 1.0, ()), projections(poses)) is None


def test_what_stands_on_a_table_is_told_from_it_without_color(
    box: tuple[list[np.ndarray], np.ndarray],
) -> None:
    pictures, matrices = box
    seeds = seeds_from_cameras(matrices, [SIZE] * len(pictures))
    points = sparse_points(pictures, matrices, seeds.center)
    plane = find_table(points, seeds, matrices)
    assert plane is not None
    assert plane.normal @ [0, 0, 1] > 0.9995 and plane.offset == pytest.approx(-textured.BOX, abs=0.01)
    truth = [silhouette(matrix) for matrix in matrices]
    found = Table(plane, seeds, matrices).evidence(pictures, [np.zeros(SIZE, bool)] * len(pictures))
    right = wrong = 0
    for evidence, mask in zip(found, truth, strict=True):
        within = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        outside = ~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        right += (evidence[within] > 0.5).sum() + (evidence[outside] < -0.1).sum()
        wrong += (evidence[within] < -0.1).sum() + (evidence[outside] > 0.5).sum()
    assert wrong < 0.05 * right, (right, wrong)  # blotches of nearly one shade: 0.033 seen


def test_an_object_of_its_tables_colors_is_refused(box: tuple[list[np.ndarray], np.ndarray]) -> None:
    """Neither way finds the box in each of its views; masks of some of them would be a wrong scene."""
    pictures, matrices = box
    names = [f"view {k}" for k in range(len(pictures))]
    with pytest.raises(InputError, match="no object could be told from its background .* give masks"):
        make_masks(pictures, names, matrices, None)
