"""Plots, HTML pages and 3D figures."""
