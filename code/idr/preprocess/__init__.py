"""Bounding sphere, visual hull, diagnosis and report of a scene, from its masks and cameras."""
