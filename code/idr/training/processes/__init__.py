"""Several processes that share the rays of a step."""
