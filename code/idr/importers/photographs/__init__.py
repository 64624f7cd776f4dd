"""Scenes from photographs alone: structure from motion and lens models."""
