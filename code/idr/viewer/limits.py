"""Ranges of the page's sliders, which the command's flags share."""

from __future__ import annotations

RESOLUTIONS, SIDES = (32, 512, 32), (64, 1024, 64)
"""Smallest value, largest value and step: of the surface's resolution, of pixels along an image."""
