"""The accelerated tracer: a sparse grid of f bounds where a surface can be, the network locates it."""
