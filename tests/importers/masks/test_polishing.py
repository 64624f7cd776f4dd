"""Polishing of masks: the background's color around the object, and cuts by given log odds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.importers.masks.test_automatic import SIZE, ious, projections, truth

from idr.importers.masks.colors import developed
from idr.importers.masks.graph_cut import cut
from idr.importers.masks.hints import UNKNOWN
from idr.importers.masks.polishing import Polisher
from idr.importers.masks.seeds import seeds_from_cameras
from idr.importers.masks.surroundings import surroundings_density

FREE = np.full((60, 80), cv2.GC_PR_BGD, np.uint8)


def test_a_cut_follows_the_odds_where_colors_are_equal() -> None:
    odds = np.full((60, 80), -2.0, np.float32)
    odds[20:40, 30:60] = 2.0
    made = cut(np.full((60, 80, 3), 100, np.float32), odds, FREE)
    assert (made ^ (odds > 0)).sum() <= 12  # corners may be cut


def test_a_cut_moves_to_an_edge() -> None:
    generator = np.random.default_rng(0)
    lab = 100 + generator.normal(0, 2, (60, 80, 3)).astype(np.float32)
    lab[20:40, 30:60] += 40
    odds = generator.normal(-0.5, 1.0, (60, 80)).astype(np.float32)
    odds[18:43, 27:63] += 1.0  # imprecise, and weak
    made = cut(lab, odds, FREE)
    assert made[21:39, 31:59].all() and not made[:19].any() and not made[41:].any()


def test_labels_of_a_cut_are_fixed() -> None:
    labels = FREE.copy()
    labels[:5], labels[-5:] = cv2.GC_FGD, cv2.GC_BGD
    lab = np.full((60, 80, 3), 100, np.float32)
    up, down = (cut(lab, np.full((60, 80), odds, np.float32), labels) for odds in (-3.0, 3.0))
    assert (up.sum(), (~down).sum()) == (5 * 80, 5 * 80)


def test_uneven_light_and_shadows_continue_the_background() -> None:
    """A gradient below the unknown part, a shadow, and an object of another color."""
    light = np.linspace(140, 200, 160, dtype=np.float32)
    lab = np.stack([np.tile(light, (120, 1)), np.full((120, 160), 120.0), np.full((120, 160), 90.0)], axis=2)
    lab = lab.astype(np.float32) + np.random.default_rng(0).normal(0, 1.5, lab.shape).astype(np.float32)
    shadow, thing = np.s_[62:70, 70:90], np.s_[45:55, 70:90]
    lab[shadow] = (lab[shadow] - (0, 128, 128)) * 0.7 + (0, 128, 128)
    lab[thing] += (0, 40, 30)
    unknown = np.zeros((120, 160), bool)
    unknown[40:75, 60:100] = True
    density = surroundings_density(lab, ~unknown)
    plain = density[57:60, 70:90].mean()
    assert plain > 1e-4 and density[shadow].mean() > 1e-6 > 1e4 * density[thing].mean()


def cloth_and_ball(color: tuple[int, int, int]) -> tuple[list[np.ndarray], list[np.ndarray], Polisher]:
    """Photographs of a ball on unevenly lit cloth, their true masks, and a polisher of these photographs."""
    matrices, generator = projections(), np.random.default_rng(2)
    true = [truth(matrix) for matrix in matrices]
    light = np.linspace(0.85, 1.15, SIZE[1])[None, :, None]
    images = []
    for mask in true:
        image = np.where(mask[..., None], [150.0, 120, 60], light * color)
        images.append(np.clip(image + generator.normal(0, 2, image.shape), 0, 255).astype(np.uint8))
    return images, true, polisher_of(images)


def polisher_of(images: list[np.ndarray]) -> Polisher:
    matrices = projections()
    unlabelled = [np.full(SIZE, UNKNOWN, np.uint8)] * len(images)
    names = [f"view {k}" for k in range(len(images))]
    return Polisher(images, names, matrices, seeds_from_cameras(matrices, [SIZE] * len(images)), unlabelled)


NO_PLANE = [np.zeros(SIZE, np.float32)] * len(projections())


@pytest.mark.parametrize("color", [(60, 90, 170), (38, 38, 42)])
def test_a_block_of_plain_ground_is_removed(color: tuple[int, int, int]) -> None:
    """Below a ball on unevenly lit cloth, the masks of all views contain the same patch of cloth."""
    _, true, polisher = cloth_and_ball(color)
    masks = []
    for mask in true:
        block = np.zeros_like(mask)
        rows, columns = np.nonzero(mask)
        block[int(rows.mean()) : rows.max() + 5, columns.min() - 4 : columns.max() + 5] = True
        masks.append(mask | block)
    made = polisher.polished(masks, NO_PLANE)
    assert ious(tuple(masks), true).max() < 0.92
    assert ious(tuple(made), true).min() > 0.97, ious(tuple(made), true)


def test_a_shadowed_part_that_the_other_views_show_is_kept() -> None:
    """A shadow, nearly of the cloth's color, covers a third of the ball in one view, and little in others."""
    images, true, _ = cloth_and_ball((64, 56, 40))
    for k, (image, mask) in enumerate(zip(images, true, strict=True)):
        columns = np.flatnonzero(mask.any(axis=0))
        shadow = mask.copy()
        shadow[:, columns[0] + int((columns[-1] - columns[0]) * (0.33 if k == 2 else 0.1)) :] = False
        image[shadow] = (0.45 * image[shadow]).astype(np.uint8)
    made = polisher_of(images).polished(true, NO_PLANE)
    assert ious(tuple(made), true).min() > 0.99, ious(tuple(made), true)


def test_dark_photographs_are_brightened_and_lose_noise_but_no_edge() -> None:
    clean = np.full((60, 80, 3), 30.0)
    clean[:, 40:] = 60
    noise = np.random.default_rng(0).normal(0, 3, clean.shape)
    photographs = (np.clip(np.rint(scale * clean + noise), 0, 255).astype(np.uint8) for scale in (1, 4))
    dark, bright = (developed([photograph])[0] for photograph in photographs)
    factor = dark[:, 50:].mean() / 60
    assert 3 < factor < 4  # the brightest pixels reach 235
    assert dark[:, 50:].std() < 0.6 * 3 * factor
    assert dark[:, 40].mean() - dark[:, 39].mean() > 0.9 * 30 * factor
    assert bright[:, 50:].mean() == pytest.approx(240, abs=1)
