"""Sampled signed distance fields with error bounds, for tracing (`sdf_grid`) and meshing (`refinement`).

Fields are plain functions of points; nothing here depends on networks.
"""
