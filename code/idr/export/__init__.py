"""Files for other programs: colored meshes, cameras, rendered paths. Needs no models."""
