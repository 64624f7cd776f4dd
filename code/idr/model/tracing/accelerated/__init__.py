"""The accelerated tracer: a sparse grid of f says where a surface may be, the network says where it is."""
