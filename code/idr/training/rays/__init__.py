"""The rays of a step: batches, sampling of pixels, random numbers."""
