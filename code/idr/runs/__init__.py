"""Trained runs: their folders, and opening them."""
