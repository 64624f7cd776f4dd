"""What leaves the project: colored meshes, cameras, films. Takes arrays and callables, never models."""
