"""Built-in scenes with known surfaces, and scores against them."""
