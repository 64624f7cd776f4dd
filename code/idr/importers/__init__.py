"""Imports scenes of other programs, and photographs, as data folders."""
