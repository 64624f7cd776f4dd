"""Coarse-to-fine refinement of a lattice: slope bounds of a field, and cells that its values rule out.

M cells, N nodes. A lattice has integer coordinates; its level of stride s has the nodes at multiples of s and
at the upper ends, so that the last cells of an axis may be narrower. A cell is named by its lowest corner.
A region is a box of cells.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

CORNERS = np.array(list(itertools.product((0, 1), repeat=3)), dtype=np.int32)
"""(8, 3) corners of a cell in units of its width; also its octants, each named by its corner."""

SAFETY = 1.25
"""Slope bound over the largest measured slope. Some pair of a cell's corners lies within 28 degrees of any
direction, so that for a linear field the measured slope is at least 0.88 of the true one; the rest is for
bends between nodes."""

MIN_SHARE = 0.5
"""Smallest bound of a region over the largest bound: the field may be flat where it was sampled."""

_PAIRS = np.array(list(itertools.combinations(range(8), 2)))  # (28, 2)
_ALONG = (CORNERS[_PAIRS[:, 0]] != CORNERS[_PAIRS[:, 1]]).astype(np.float32)  # (28, 3): axes they differ in

# Distance from corner i to the farthest point of octant o, in cell widths: half a width along the axes in
# which the octant lies on the corner's side, a whole one along the others.
_TO_OCTANT = np.sqrt(np.where(CORNERS[:, None] == CORNERS[None], 0.25, 1.0).sum(axis=2)).astype(np.float32)


class SlopeBounds:
    """Bounds of the slope of a field in each region of a lattice, learned from its values.

    A region's bound is `SAFETY` times the largest slope measured in it and in the regions around it; a slope
    is the difference of the values at two corners of a cell over their distance. Bounds never decrease. A
    node of value v in a convex region of bound L is at least |v| / L from the zeros in that region.
    `shape` is the number of regions along the axes.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._largest = np.zeros(shape, dtype=np.float32)
        self._bounds = np.zeros(shape, dtype=np.float32)

    def observe(
        self, regions: NDArray[np.int32], values: NDArray[np.float32], widths: NDArray[np.floating]
    ) -> None:
        """Measures the slopes in cells by their regions, values at `CORNERS` (M, 8), and sides (M, 3)."""
        squares = (widths.astype(np.float32) ** 2) @ _ALONG.T  # (M, 28)
        rises = values[:, _PAIRS[:, 0]] - values[:, _PAIRS[:, 1]]
        slopes = np.sqrt((rises * rises / squares).max(axis=1, initial=0.0))
        np.maximum.at(self._largest, tuple(regions.T), slopes)

    def settle(self) -> NDArray[np.bool_]:
        """Raises the bounds that are below a measured slope; returns True for the regions raised."""
        needed = np.maximum(maximum_filter(self._largest, size=3), MIN_SHARE * self._largest.max())
        raised = needed > self._bounds
        self._bounds[raised] = SAFETY * needed[raised]
        return raised

    def widen(self, regions: NDArray[np.bool_]) -> None:
        """Raises the bounds of the regions marked True by `SAFETY`, after values contradicted them."""
        self._bounds[regions] *= SAFETY

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest bound."""
        return float(self._bounds.min()), float(self._bounds.max())

    def radii(self, regions: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the radii, (M, 8), around the corners of cells within which the cell has no zero."""
        bounds = self._bounds[tuple(regions.T)][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # constant fields
            return np.where(values == 0, np.float32(0), np.abs(values) / bounds)


def uncertain_octants(radii: NDArray[np.float32], width: float) -> NDArray[np.bool_]:
    """Returns (M, 8) True for the octants of cells that may contain a zero.

    An octant has no zero if it lies entirely within the radius, (M, 8), of one of the cell's corners. `width`
    is the largest side of the cells, in the radii's unit.
    """
    far = _TO_OCTANT * np.float32(width)
    return np.stack([(radii <= distances).all(axis=1) for distances in far], axis=1)


class PagedValues:
    """Values at some of the `shape` nodes of a lattice, in pages of 8^3, allocated when written to."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._table = np.zeros([-(-count // 8) for count in shape], dtype=np.int32)
        self._pages = np.full((1, 512), np.nan, dtype=np.float32)  # page 0 stands for unallocated ones
        self._used = 1

    def get(self, indices: NDArray[np.int32]) -> NDArray[np.float32]:
        """Returns (...) the values at (..., 3) node indices within the shape; NaN where none was set."""
        pages, places = self._find(indices)
        return self._pages.ravel()[pages.astype(np.int64) * 512 + places]

    def set(self, indices: NDArray[np.int32], values: NDArray[np.float32]) -> None:
        """Writes (N,) finite values at (N, 3) node indices within the shape."""
        pages, places = self._find(indices)
        missing = np.unique(np.ravel_multi_index(tuple((indices[pages == 0] >> 3).T), self._table.shape))
        if len(missing):
            used = self._used + len(missing)
            if used > len(self._pages):
                larger = np.full((max(used, 3 * len(self._pages) // 2), 512), np.nan, np.float32)
                larger[: self._used] = self._pages[: self._used]
                self._pages = larger
            self._table.ravel()[missing] = np.arange(self._used, used)
            self._used = used
            pages, places = self._find(indices)
        self._pages[pages, places] = values

    def box(self, start: NDArray[np.integer], size: NDArray[np.integer]) -> NDArray[np.float32]:
        """Returns the values of `size` nodes from `start`, a multiple of 8; NaN where none was set."""
        first, last = start >> 3, (start + size - 1) >> 3
        table = self._table[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
        pages = self._pages[table].reshape(*table.shape, 8, 8, 8).transpose(0, 3, 1, 4, 2, 5)
        whole = pages.reshape([8 * count for count in table.shape])
        return np.ascontiguousarray(whole[: size[0], : size[1], : size[2]])

    def _find(self, indices: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        x, y, z = indices[..., 0], indices[..., 1], indices[..., 2]
        pages = self._table[x >> 3, y >> 3, z >> 3]
        return pages, ((x & 7) << 6) | ((y & 7) << 3) | (z & 7)
