"""A mesh with normals, and colors or a texture.

V vertices, T faces. Colors are sRGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Surface:
    """A mesh with normals, and colors or a texture.

    Attributes:
        vertices: (V, 3).
        faces: (T, 3), counter-clockwise seen from outside.
        normals: (V, 3) unit normals.
        colors: (V, 3) sRGB in [0, 1], or None.
        uv: (V, 2) texture coordinates, (0, 0) the lower left corner; None without a texture.
        texture: (H, W, 3) uint8 sRGB, or None.
    """

    vertices: Array
    faces: NDArray[np.integer]
    normals: Array
    colors: Array | None = None
    uv: Array | None = None
    texture: NDArray[np.uint8] | None = None

    def moved(self, matrix: Array) -> Surface:
        """Returns the surface in the frame of a (4, 4) affine map, its faces still outward."""
        linear, shift = np.asarray(matrix, dtype=np.float64)[:3, :3], np.asarray(matrix)[:3, 3]
        normals = self.normals @ np.linalg.inv(linear)  # by the inverse transpose, as gradients are
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
        faces = self.faces[:, ::-1] if np.linalg.det(linear) < 0 else self.faces
        return replace(self, vertices=self.vertices @ linear.T + shift, faces=faces, normals=normals)


def srgb_to_linear(colors: Array) -> NDArray[np.float64]:
    """Inverts the transfer function of sRGB (IEC 61966-2-1), for values in [0, 1]."""
    values = np.clip(np.asarray(colors, dtype=np.float64), 0.0, 1.0)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
