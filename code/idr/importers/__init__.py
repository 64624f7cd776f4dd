"""Scenes of other programs, read and written as the project's data folders."""
