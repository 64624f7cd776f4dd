"""Training many scenes, on one machine or on a cluster."""
