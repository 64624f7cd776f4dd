"""True size: the length of a source's unit in meters, from something of known size in its photographs."""
