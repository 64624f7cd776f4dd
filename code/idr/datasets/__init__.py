"""Scenes: photographs, masks and cameras, and the built-in scene that is made on the spot."""
