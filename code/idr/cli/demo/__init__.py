"""Commands of the built-in scenes."""
