"""What changes in the course of training: learning rates, alpha, open levels, image sizes."""
