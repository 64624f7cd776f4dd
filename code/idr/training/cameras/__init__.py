"""Cameras that are trained: poses, intrinsics and their optimizer."""
