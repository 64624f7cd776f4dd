"""Checkpoints: file format, manifests, atomic saving, and schemas of their parts."""
