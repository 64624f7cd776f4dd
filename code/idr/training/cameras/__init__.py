"""Trained cameras: poses, intrinsics and their optimizers."""
