"""Schedules of learning rates, alpha, open levels and image sizes."""
