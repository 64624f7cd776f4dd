"""Which rays a step takes."""
