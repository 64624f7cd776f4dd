"""Scenes: photographs, masks and cameras."""
