"""Sampled fields: signed distances on a sparse grid, with a stated bound on what lies between samples."""

from __future__ import annotations

from idr.fields.sdf_grid import Sdf, SdfGrid, build_sdf_grid

__all__ = ["Sdf", "SdfGrid", "build_sdf_grid"]
