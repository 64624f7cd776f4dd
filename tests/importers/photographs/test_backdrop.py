"""The backdrop of turntables: found where it stands still, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from tests.importers import textured

from idr.importers.photographs.backdrop import Backdrop, find_backdrop
from idr.importers.photographs.structure_from_motion import sequential_pairs

SIZE = (textured.HEIGHT, textured.WIDTH)


def found(images: list[np.ndarray]) -> Backdrop:
    return find_backdrop(images, sequential_pairs(len(images)))


def is_box(image: np.ndarray) -> np.ndarray:
    """By color: the box is orange, the turntable blue, the wall green."""
    return (image[..., 0].astype(int) > image[..., 1]) & (image[..., 0] > image[..., 2])


def turning(heights: tuple[float, ...]) -> list[np.ndarray]:
    """Eight photographs for each height of the camera."""
    poses = [pose for height in heights for pose in textured.turntable_poses(8, height)]
    return [textured.photograph(pose, behind=textured.backdrop()) for pose in poses]


def check(backdrop: Backdrop, images: list[np.ndarray]) -> None:
    """Features lie on box and turntable alone; what is certain is most of the wall, and nothing else."""
    assert backdrop.is_still
    for k, image in enumerate(images):
        wall = (textured.backdrop().astype(int) - image == 0).all(axis=-1)
        features, certain = backdrop.features(k, SIZE), backdrop.certain(k, SIZE)
        assert features[is_box(image)].mean() > 0.98
        assert features[wall].mean() < 0.12
        assert certain[wall].mean() > 0.2 and not certain[~wall].any()


def test_a_turntable() -> None:
    images = turning((0.55,))
    check(found(images), images)


def test_exposure_may_change() -> None:
    images = turning((0.55,))
    gains = np.random.default_rng(0).uniform(0.6, 1.0, (len(images), 1, 1, 3))
    noise = np.random.default_rng(1).normal(0, 2, (len(images), *SIZE, 3))
    changed = images * gains + noise
    check(found(list(changed.clip(0, 255).astype(np.uint8))), images)


def test_two_rings_have_a_backdrop_each() -> None:
    images = turning((0.5, 0.9))
    moved = np.roll(textured.backdrop(), (31, 47), axis=(0, 1))  # as the higher camera sees it
    still = (textured.backdrop().astype(int) - np.stack(images[8:]) == 0).all(axis=-1)
    images[8:] = [np.where(s[..., None], moved, image) for s, image in zip(still, images[8:], strict=True)]
    backdrop = found(images)
    assert backdrop.is_still
    for k, image in enumerate(images):
        assert backdrop.features(k, SIZE)[is_box(image)].mean() > 0.98
        assert backdrop.features(k, SIZE)[0].mean() < 0.05


def test_a_still_part_of_the_object_is_not_called_backdrop() -> None:
    """A plain foot and a plain long neck on the axis look the same in all photographs."""
    images, parts = turning((0.55,)), np.zeros(SIZE, bool)
    parts[150:205, 130:190] = parts[:70, 140:180] = True
    for image in images:
        image[parts] = (200, 190, 180)
    backdrop = found(images)
    assert backdrop.is_still
    assert not any(backdrop.certain(k, SIZE)[parts].any() for k in range(len(images)))


def test_a_small_textured_part_counts_if_the_user_says_so() -> None:
    images = turning((0.55,))
    wall = (textured.backdrop().astype(int) - np.stack(images) == 0).all(axis=-1)
    wall[:, :40, :40] = False
    for image, plain in zip(images, wall, strict=True):
        image[plain] = (120, 130, 140)
    assert not found(images).is_still
    told = find_backdrop(images, sequential_pairs(len(images)), told=True)
    for k, image in enumerate(images):
        features = told.features(k, SIZE)
        assert features[is_box(image)].mean() > 0.98 and not features[:40, :40].any()


@pytest.mark.parametrize("step", [2.0, 14.0])
def test_a_camera_that_moves_has_no_still_backdrop(step: float) -> None:
    assert not found([textured.photograph(pose) for pose in textured.poses(8, step)]).is_still


def test_photographs_that_are_all_alike_show_no_turntable() -> None:
    image = textured.photograph(textured.poses(1)[0]).astype(int)
    noise = np.random.default_rng(0).integers(0, 6, (6, *image.shape))
    assert not found([(image + more).clip(0, 255).astype(np.uint8) for more in noise]).is_still


def test_a_frame_around_moving_photographs_is_no_backdrop() -> None:
    """A watermark and a letterbox stand still, but they are not what is behind the object."""
    images = [textured.photograph(pose) for pose in textured.poses(8)]
    for image in images:
        image[:20] = image[-20:] = 0
        image[200:212:2, 250:300] = 255
    assert not found(images).is_still
