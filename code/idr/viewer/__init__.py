"""A browser page that shows a run, also during training; only commands import it."""
