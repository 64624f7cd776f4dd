"""Signed distances sampled where their surface may be, with stated bounds on what lies between samples.

Grids for tracing (`sdf_grid`), and the refinement that meshing uses (`refinement`). Fields are plain
functions: nothing here knows networks.
"""
