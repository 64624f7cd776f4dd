"""Mending the masks of a scene, by labels or on a page."""
