"""Cameras, rotations and spheres as pure functions; imports nothing of the rest of the package."""
