"""The training loop, its schedules, its random numbers and the learnable cameras."""
