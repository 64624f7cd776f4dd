"""Faster twins of parts of the method (`idr.model.twins`). Everything works without this folder."""
