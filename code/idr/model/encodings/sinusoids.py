"""The published point encoding: sinusoids at octave frequencies (paper, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from idr.errors import InputError
from idr.model.embedder import encoded_width, positional_encoding
from idr.model.encodings.base import Encoding


@dataclass(frozen=True)
class SinusoidsConfig:
    """Keys of the block ``encoding`` with ``type = sinusoids``.

    Attributes:
        type: Name of the encoding.
        multires: Number of octaves; 0 leaves the point as it is.
    """

    LARGEST: ClassVar[dict[str, int]] = {"multires": 32}

    type: str = "sinusoids"
    multires: int = 0

    def __post_init__(self) -> None:
        if self.multires < 0:
            raise InputError(f"multires = {self.multires}: expected 0 or more octaves")


class Sinusoids(Encoding):
    """`positional_encoding` as an encoding, without parameters."""

    def __init__(self, config: SinusoidsConfig) -> None:
        super().__init__()
        self.octaves = config.multires
        self.width = encoded_width(3, config.multires)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes points, see `Encoding.forward`."""
        return positional_encoding(x, self.octaves)


ENCODING = (SinusoidsConfig, Sinusoids)
