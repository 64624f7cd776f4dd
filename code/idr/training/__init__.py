"""The training loop, its schedules, rays, cameras and processes."""
