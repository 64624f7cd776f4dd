"""Masks with hints: pixels that a user labels as object or background."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.importers.masks.test_automatic import SIZE, ball_photographs, ious, projections, truth

from idr.errors import InputError
from idr.importers.masks.automatic import make_masks
from idr.importers.masks.colors import color_odds
from idr.importers.masks.hints import BACKGROUND, OBJECT, hint_of_mask, shrunk_hint

NAMES = [f"view {k}" for k in range(8)]


def test_labelled_pixels_are_certain() -> None:
    matrices = projections()
    hints: list[np.ndarray | None] = [None] * 8
    hints[2] = np.zeros(SIZE, np.uint8)
    hints[2][:6, :9] = OBJECT
    hints[2][45:55, 55:65] = BACKGROUND  # within the ball
    made = make_masks(ball_photographs(matrices), NAMES, matrices, None, hints=hints)
    assert made.masks[2][:6, :9].all() and not made.masks[2][45:55, 55:65].any()
    true = [truth(matrix) for matrix in matrices]
    assert ious(made.masks[3:], true[3:]).min() > 0.95  # the mistake stays in its view


def test_complete_masks_are_kept() -> None:
    matrices = projections()
    true = [truth(matrix) for matrix in matrices]
    larger = [cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0 for mask in true]
    hints = [hint_of_mask(mask) if k % 2 else None for k, mask in enumerate(larger)]
    made = make_masks(ball_photographs(matrices), NAMES, matrices, None, hints=hints)
    assert all((made.masks[k] == larger[k]).all() for k in (1, 3, 5, 7))
    assert ious(made.masks[::2], true[::2]).min() > 0.95


def test_a_label_in_one_view_weighs_in_all() -> None:
    red = np.full((40, 40, 3), [200, 20, 20], np.uint8)
    green = np.full((40, 40, 3), [20, 200, 20], np.uint8)
    mixed = np.hstack([red[:, :20], green[:, 20:]])
    everywhere = (np.ones((40, 40), bool),) * 2
    stroke = np.zeros((40, 40), np.uint8)
    stroke[5:8, 25:30] = BACKGROUND
    odds = color_odds([mixed, mixed], everywhere, [stroke, np.zeros_like(stroke)])
    assert odds[1][:, 22:].max() < 0 < odds[1][:, :18].min()


def test_a_thin_stroke_survives_shrinking() -> None:
    hint = np.zeros((100, 200), np.uint8)
    cv2.line(hint, (10, 20), (190, 80), OBJECT, 1)
    small = shrunk_hint(hint, (10, 20))
    assert small.shape == (10, 20) and set(np.unique(small)) == {0, OBJECT} and (small[2:8] > 0).any(1).all()
    assert (shrunk_hint(hint_of_mask(hint > 0), (10, 20)) > 0).all()


@pytest.mark.parametrize(
    ("hint", "message"), [(np.zeros((3, 3)), "shape"), (np.full(SIZE, 7), r"values \[7\]; expected 0")]
)
def test_other_hints_are_refused(hint: np.ndarray, message: str) -> None:
    matrices = projections()
    with pytest.raises(InputError, match=message):
        make_masks(ball_photographs(matrices), NAMES, matrices, None, hints=[hint] + [None] * 7)
