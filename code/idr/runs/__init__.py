"""Trained runs: their folders, and `Run`, the one object for a trained run."""

from __future__ import annotations

from idr.runs.run import Run, load_run
from idr.runs.views import Camera

__all__ = ["Camera", "Run", "load_run"]
