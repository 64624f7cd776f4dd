"""Masks of imported scenes: provided by the source, or computed from the photographs."""
