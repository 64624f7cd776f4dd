"""Ground planes: found from sparse points, and separated from the object on them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from tests.importers import textured

from idr.errors import InputError
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.ground_plane import GroundPlane, find_ground_plane
from idr.importers.masks.seeds import Seeds, seeds_from_cameras
from idr.importers.masks.sparse_points import (
    MAX_REPROJECTION_ERROR,
    neighbor_pairs,
    sparse_points,
    triangulated,
)

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
    """Photographs in which box and ground have the same gray levels."""
    images = []
    for pose in poses:
        image = textured.photograph(pose).astype(np.float32)
        box = silhouette(K @ np.linalg.inv(pose)[:3])
        gray = np.where(box, image[..., 0] / 250, image[..., 2] / 230) * 200
        images.append(np.repeat(gray[..., None], 3, axis=2).clip(0, 255).astype(np.uint8))
    return images


@pytest.fixture(scope="module")
def box() -> tuple[list[np.ndarray], np.ndarray]:
    poses = textured.poses(12, step_degrees=30.0)
    return colorless(poses), projections(poses)


def scattered(seed: int, on_ground: int, on_object: int) -> np.ndarray:
    """Points on the ground z = -0.5, on a ball that stands on it, and outliers."""
    generator = np.random.default_rng(seed)
    ground = np.column_stack([generator.uniform(-2, 2, (on_ground, 2)), np.full(on_ground, -0.5)])
    ball = generator.standard_normal((on_object, 3))
    ball *= 0.5 / np.linalg.norm(ball, axis=1, keepdims=True)
    wrong = generator.uniform(-1.5, 1.5, (max(3, (on_ground + on_object) // 50), 3)) + [0, 0, 1.2]
    return np.vstack([ground, ball, wrong])


def test_matches_triangulate_to_their_points_and_wrong_ones_are_dropped() -> None:
    first, second = projections(textured.poses(2))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (30, 3))
    a, b = pixels(points, first), pixels(points, second)
    np.testing.assert_allclose(triangulated(a, b, first, second), points, atol=1e-6)
    direction = np.roll(b, 1, axis=0) - b  # permuted, so nearly all are off the epipolar lines
    assert len(triangulated(a, b + direction, first, second)) <= 3
    moved = triangulated(a, b + [0.0, 4 * MAX_REPROJECTION_ERROR], first, second)
    assert len(moved) == 0


def test_views_are_paired_with_neighbors_above_a_minimum_angle() -> None:
    poses = textured.poses(5, step_degrees=10)
    poses = np.concatenate([poses, poses[:1]])  # the first one again
    pairs = neighbor_pairs(projections(poses), np.zeros(3))
    assert (0, 5) not in pairs and (0, 1) in pairs and (1, 5) in pairs
    assert len(set(pairs)) == len(pairs) and all(i < j for i, j in pairs)


def test_the_ground_plane_is_found_in_any_world_frame() -> None:
    points, cameras = scattered(0, 300, 200), textured.poses(8, step_degrees=45)
    seeds = Seeds(np.zeros(3), 1.0, ())
    plane = find_ground_plane(points, seeds, projections(cameras))
    assert plane is not None
    assert plane.normal @ [0, 0, 1] > 0.9999 and plane.offset == pytest.approx(-0.5, abs=2e-3)
    turn, scale, shift = Rotation.from_rotvec([0.4, -1.0, 2.0]).as_matrix(), 7.0, np.array([30.0, -5, 11])
    moved = cameras.copy()
    moved[:, :3, :3] = turn @ cameras[:, :3, :3]
    moved[:, :3, 3] = scale * cameras[:, :3, 3] @ turn.T + shift
    elsewhere = find_ground_plane(
        scale * points @ turn.T + shift, Seeds(shift, scale, ()), projections(moved)
    )
    assert elsewhere is not None
    np.testing.assert_allclose(elsewhere.normal, turn @ plane.normal, atol=1e-3)
    np.testing.assert_allclose(elsewhere.height(scale * turn @ [0, 0, -0.5] + shift), 0, atol=0.02)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (scattered(0, 0, 400), "no plane contains many points of a ball"),
        (scattered(0, 300, 200) * [1, 1, -1], "a ceiling above the object"),
        (scattered(0, 20, 15), "too few points"),
        (scattered(0, 300, 200) - [0, 0, 2.0], "too far below the object"),
    ],
)
def test_no_ground_plane_is_found_where_there_is_none(points: np.ndarray, why: str) -> None:
    cameras = projections(textured.poses(8, step_degrees=45))
    assert find_ground_plane(points, Seeds(np.zeros(3), 1.0, ()), cameras) is None, why


def test_a_plane_between_cameras_is_no_ground_plane() -> None:
    poses = textured.poses(8, step_degrees=45)
    poses[3, :3, 3] *= [1, 1, -1]
    assert find_ground_plane(scattered(0, 300, 200), Seeds(np.zeros(3), 1.0, ()), projections(poses)) is None


def test_evidence_separates_object_and_ground_of_the_same_color(
    box: tuple[list[np.ndarray], np.ndarray],
) -> None:
    images, matrices = box
    seeds = seeds_from_cameras(matrices, [SIZE] * len(images))
    points = sparse_points(images, matrices, seeds.center)
    plane = find_ground_plane(points, seeds, matrices)
    assert plane is not None
    assert plane.normal @ [0, 0, 1] > 0.9995 and plane.offset == pytest.approx(-textured.BOX, abs=0.01)
    truth = [silhouette(matrix) for matrix in matrices]
    found = GroundPlane(plane, seeds, matrices).evidence(images, [np.zeros(SIZE, bool)] * len(images))
    right = wrong = 0
    for evidence, mask in zip(found, truth, strict=True):
        within = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        outside = ~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        right += (evidence[within] > 0.5).sum() + (evidence[outside] < -0.1).sum()
        wrong += (evidence[within] < -0.1).sum() + (evidence[outside] > 0.5).sum()
    assert wrong < 0.05 * right, (right, wrong)  # measured 0.033, where textures happen to agree


def test_an_object_of_the_grounds_color_is_refused(box: tuple[list[np.ndarray], np.ndarray]) -> None:
    """Neither cue finds the box in every view, and masks of only some views would be a wrong scene."""
    images, matrices = box
    names = [f"view {k}" for k in range(len(images))]
    with pytest.raises(InputError, match="object and background could not be separated .* pass masks"):
        make_masks(images, names, matrices, None)
