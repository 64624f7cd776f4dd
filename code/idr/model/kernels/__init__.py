"""Faster twins of parts of the method. Without this folder everything works, only slower."""
