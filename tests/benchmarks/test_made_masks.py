"""`benchmarks/made_masks.py`: rendered photographs, and masks made from them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("embreex")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import made_masks  # noqa: E402


def test_masks_of_a_vehicle_on_plain_cloth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the polishing, the mean is 0.955, and the worst view, with cloth between the wheels, 0.86."""
    monkeypatch.setattr(made_masks, "SPACING", 0.03)
    case = made_masks.photographs("vehicle", "plain", 12, (150, 200))
    assert 0.02 < np.mean(case.masks) < 0.2
    ious = made_masks.score(case, "scene")[1]
    assert ious.mean() > 0.975 and ious.min() > 0.95, ious.round(3)
