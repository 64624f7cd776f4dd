"""From photographs to a colored mesh, one command."""
