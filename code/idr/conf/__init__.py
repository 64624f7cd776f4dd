"""Confs: finding and reading files, blocks as dataclasses, and building what a conf names."""
