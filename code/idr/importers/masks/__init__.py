"""Masks of imported scenes: given ones, and ones made from the photographs."""
