"""`benchmarks/made_masks.py`: rendered photographs, and masks made from them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("embreex")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import made_masks  # noqa: E402


@pytest.mark.parametrize(("ground", "mean", "worst"), [("plain", 0.95, 0.93), ("dark", 0.9, 0.85)])
def test_masks_of_an_animal(
    ground: str, mean: float, worst: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_masks, "SPACING", 0.03)
    case = made_masks.photographs("beast", ground, 12, (120, 160))
    assert 0.02 < np.mean(case.masks) < 0.2
    ious = made_masks.score(case, "scene")[1]
    assert ious.mean() > mean and ious.min() > worst, ious.round(3)
