"""Plots, pages that open without network, and figures in 3D."""
