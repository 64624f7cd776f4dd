"""The networks, the ray tracer, the differentiable intersection and the loss."""
