"""What leaves the project: coloured meshes, cameras, films. Takes arrays and callables, never models."""
