"""Terms of the loss beyond the paper's: each is a block within ``loss``, and off without it."""
