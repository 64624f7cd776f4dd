"""From masks and cameras to the sphere that bounds the object."""
