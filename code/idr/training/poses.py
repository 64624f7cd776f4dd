"""Learnable cameras: one 7-vector an image (paper, section 3.1: tau).

B images.
"""

from __future__ import annotations

from torch import Tensor, nn


class LearnablePoses(nn.Embedding):
    """Poses as rows of an embedding with sparse gradients: images outside a batch stay untouched.

    A row is the quaternion (w, x, y, z) of the camera-to-world rotation, stored as it is and divided by its
    norm at each use, inside the graph; then the camera's centre in unit-sphere coordinates.

    Args:
        start: (B, 7) where the poses start.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__(start.shape[0], start.shape[1], sparse=True, _weight=start.clone())
