"""Measuring trained runs: meshes, renderings, cameras, distances, and novel views of mixed models."""
