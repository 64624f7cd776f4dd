"""Checkpoints: their format, manifests, and folders that are written atomically."""
