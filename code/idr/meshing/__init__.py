"""Extraction of zero sets: grids, marching cubes, the default frame, mesh files."""

from __future__ import annotations

from idr.meshing.extract import Extraction, extract_dense, extract_mesh, extract_sparse
from idr.meshing.frame import surface_frame
from idr.meshing.grids import SampleGrid, aligned_grid, uniform_grid
from idr.meshing.meshes import component_areas, keep_components, largest_component, transform_mesh, write_mesh
from idr.meshing.sampling import sample_volume

__all__ = [
    "Extraction", "SampleGrid", "aligned_grid", "component_areas", "extract_dense", "extract_mesh",
    "extract_sparse", "keep_components", "largest_component", "sample_volume", "surface_frame",
    "transform_mesh", "uniform_grid", "write_mesh",
]  # fmt: skip
