"""Encodings of points e(x) with their Jacobian J = de/dx in compiled or closed form, for `fused_field`.

N points, E width of the open part of the encoding. Each class keeps what it needs of J as a tensor `slopes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from idr.model.embedder import positional_encoding
from idr.model.encodings import Encoding
from idr.model.encodings.hashgrid import HashGrid
from idr.model.encodings.hashgrid_torch import Level
from idr.model.encodings.sinusoids import Sinusoids
from idr.model.kernels import softplus_loops


class PointCode(Protocol):
    """An encoding as explicit functions."""

    @property
    def width(self) -> int:
        """Returns E."""
        ...

    def encode(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns e(x) (N, E) and the slopes there, for points (N, 3) and the learned table, if any."""

    def pull(self, slopes: Tensor, by_encoded: Tensor) -> Tensor:
        """Returns J^T by_encoded (N, 3)."""

    def push(self, slopes: Tensor, v: Tensor) -> Tensor:
        """Returns J v (N, E) for v (N, 3)."""

    def bend(self, x: Tensor, table: Tensor | None, encoded: Tensor, by_encoded: Tensor, v: Tensor) -> Tensor:
        """Returns the gradient (N, 3) of by_encoded . (J v) w.r.t. x."""

    def by_table(
        self, x: Tensor, table: Tensor, by_code: Tensor, by_encoded: Tensor, v: Tensor
    ) -> Tensor:
        """Returns the gradient of by_code . e + by_encoded . (J v) w.r.t. the table."""


@dataclass(frozen=True)
class SinusoidCode:
    """`positional_encoding`: each sinusoid depends on one coordinate, so J has one entry in each row."""

    octaves: int

    @property
    def width(self) -> int:
        """Returns E."""
        return 3 * (1 + 2 * self.octaves)

    def _frequencies(self, like: Tensor) -> Tensor:
        """Frequency (1, 2 L, 1) of each block of three columns: two blocks an octave."""
        octaves = torch.arange(self.octaves, dtype=like.dtype, device=like.device)
        return (2.0**octaves).repeat_interleave(2).view(1, -1, 1)

    def encode(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encodes points, see `PointCode.encode`."""
        encoded = positional_encoding(x, self.octaves)
        blocks = encoded[:, 3:].reshape(len(x), self.octaves, 2, 3)  # sine and cosine of each octave
        slopes = torch.stack((blocks[:, :, 1], -blocks[:, :, 0]), dim=2).view(len(x), 2 * self.octaves, 3)
        return encoded, slopes * self._frequencies(x)

    def pull(self, slopes: Tensor, by_encoded: Tensor) -> Tensor:
        """Applies J^T, see `PointCode.pull`."""
        return by_encoded[:, :3] + (by_encoded[:, 3:].reshape(slopes.shape) * slopes).sum(dim=1)

    def push(self, slopes: Tensor, v: Tensor) -> Tensor:
        """Applies J, see `PointCode.push`."""
        return torch.cat((v, (slopes * v.unsqueeze(1)).flatten(1)), dim=1)

    def bend(self, x: Tensor, table: Tensor | None, encoded: Tensor, by_encoded: Tensor, v: Tensor) -> Tensor:
        """Differentiates J v, see `PointCode.bend`."""
        products = (encoded * by_encoded)[:, 3:].reshape(len(x), 2 * self.octaves, 3)
        return -(products * self._frequencies(x) ** 2).sum(dim=1) * v

    def by_table(
        self, x: Tensor, table: Tensor, by_code: Tensor, by_encoded: Tensor, v: Tensor
    ) -> Tensor:
        """Differentiates by the table, see `PointCode.by_table`."""
        raise AssertionError("sinusoids have no table")


@dataclass(frozen=True)
class GridCode:
    """The point, then the open levels of a hash grid; slopes (N, E - 3, 3).

    Attributes:
        kernels: The functions of `hashgrid_loops` for the device of the points.
        levels: The open levels.
        last_weight: Weight of the last of them.
        bound: Half the side of the cube.
        features: Features per vertex.
    """

    kernels: Any
    levels: tuple[Level, ...]
    last_weight: float
    bound: float
    features: int

    @property
    def width(self) -> int:
        """Returns E."""
        return 3 + len(self.levels) * self.features

    def _weighted(self, columns: Tensor) -> Tensor:
        """Multiplies the last level's columns of (N, E - 3, ...) by its weight, in place."""
        if self.last_weight < 1:
            columns[:, -self.features :] *= self.last_weight
        return columns

    def _learned(self, by_encoded: Tensor) -> Tensor:
        """Copies the columns of the levels and weights the last."""
        return self._weighted(by_encoded[:, 3:].clone())

    def encode(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encodes points, see `PointCode.encode`."""
        assert table is not None
        value, slopes = self.kernels.value_and_slopes(x, table, self.levels, self.bound)
        return torch.cat((x, self._weighted(value)), dim=1), self._weighted(slopes)

    def pull(self, slopes: Tensor, by_encoded: Tensor) -> Tensor:
        """Applies J^T, see `PointCode.pull`."""
        return by_encoded[:, :3] + self.kernels.pull(slopes, by_encoded[:, 3:])

    def push(self, slopes: Tensor, v: Tensor) -> Tensor:
        """Applies J, see `PointCode.push`."""
        return torch.cat((v, self.kernels.push(slopes, v)), dim=1)

    def bend(self, x: Tensor, table: Tensor | None, encoded: Tensor, by_encoded: Tensor, v: Tensor) -> Tensor:
        """Differentiates J v, see `PointCode.bend`."""
        assert table is not None
        return self.kernels.bend(x, table, self._learned(by_encoded), v, self.levels, self.bound)

    def by_table(
        self, x: Tensor, table: Tensor, by_code: Tensor, by_encoded: Tensor, v: Tensor
    ) -> Tensor:
        """Differentiates by the table, see `PointCode.by_table`."""
        learned = (self._learned(by_code), self._learned(by_encoded))
        return self.kernels.table_gradient(x, *learned, v, table, self.levels, self.bound)


def code_of(encoding: Encoding, x: Tensor) -> tuple[PointCode, Tensor | None, Any]:
    """Returns the explicit functions of an encoding: sinusoids, or a hash grid with an open level and a twin.

    Args:
        encoding: The encoding.
        x: (N, 3) points; only device and dtype matter.

    Returns:
        The functions; the grid's table; the functions of `softplus_loops` for these points.
    """
    if isinstance(encoding, HashGrid):
        twin, config = encoding.twin(x), encoding.config
        assert twin is not None
        levels, num_features = encoding.grids[: encoding.num_open], encoding.table.shape[1]
        code = GridCode(twin.grid, levels, encoding.last_weight, config.bound, num_features)
        return code, encoding.table, twin.softplus
    assert isinstance(encoding, Sinusoids)
    return SinusoidCode(encoding.octaves), None, softplus_loops
