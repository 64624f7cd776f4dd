"""Built-in scenes with known surfaces, and the scores that need the truth."""
