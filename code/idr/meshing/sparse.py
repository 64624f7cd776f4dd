"""Coarse-to-fine search for the samples of a grid near a surface.

M cells, N samples. The level of stride s has the grid's samples at multiples of s and at the upper ends.
Cells of the coarsest level are split if a zero cannot be excluded, down to stride 2. In these cells, first
the samples of undetermined sign are evaluated, then all corners of cells with a sign change.

A zero is excluded by a bound on the field's slope in each region (`SlopeBounds`), estimated from the samples.
If a finer level shows a larger slope or an excluded sign, the bound is raised and the region is searched
again; no sample is evaluated twice. Under the final bounds, which are reported, all signs equal those of a
dense evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idr.fields.refinement import CORNERS, PagedValues, SlopeBounds, uncertain_octants
from idr.meshing.sampling import GridSampler

COARSEST_CELLS = 24
"""Smallest number of cells along the shortest side of the coarsest level; it has fewer than twice as many."""

_CHUNK_CELLS = 1 << 15
"""Cells processed at once; bounds memory."""

# The 3 x 3 x 3 samples of a cell of stride 2, which of them are its corners, and the samples at the corners
# of each of the 8 cells of stride 1 in it.
_SAMPLES = np.array(list(itertools.product(range(3), repeat=3)), dtype=np.int32)  # (27, 3)
_OWN_CORNERS = np.array([9 * x + 3 * y + z for x, y, z in 2 * CORNERS])  # (8,)
_CHILD_CORNERS = np.array([[9 * x + 3 * y + z for x, y, z in child + CORNERS] for child in CORNERS])  # (8, 8)
# Distance from corner i to sample j, in grid spacings.
_TO_SAMPLE = np.linalg.norm(_SAMPLES[:, None] - 2.0 * CORNERS[None], axis=2).astype(np.float32)  # (27, 8)


@dataclass(frozen=True)
class SurfaceSamples:
    """Values of a grid's samples, set at all corners of cells with a sign change, and these cells.

    ``crossed`` holds the lowest corners of the cells, (M, 3).
    """

    values: PagedValues
    crossed: NDArray[np.int32]


class SurfaceSearch:
    """Finds the cells of a grid with a sign change, and the values at their corners.

    The regions of ``bounds``, the assumed bounds on the field's slope, are the cells of the coarsest level.
    """

    def __init__(self, sampler: GridSampler) -> None:
        self._sampler = sampler
        self._shape = sampler.grid.shape
        self._last = np.array(self._shape, dtype=np.int32) - 1
        self._strides = strides_of(self._shape)
        counts = [[-(-int(last) // stride) for last in self._last] for stride in self._strides]
        self._values = [PagedValues((x + 1, y + 1, z + 1)) for x, y, z in counts]
        self.bounds = SlopeBounds((counts[0][0], counts[0][1], counts[0][2]))
        self._pending = np.ones(counts[0], dtype=bool)  # regions to search with the current bounds
        self._crossed = np.empty((0, 3), dtype=np.int32)

    def run(self) -> SurfaceSamples:
        """Searches until all evaluated samples agree with the bounds.

        Raises:
            InputError: The field is not finite somewhere.
        """
        while self._pending.any():
            cells = self._strides[0] * np.argwhere(self._pending).astype(np.int32)
            self._crossed = self._crossed[~self._pending[self._regions(self._crossed)]]
            self._pending[:] = False
            self._crossed = np.concatenate((self._crossed, self._descend(cells)))
            self._crossed = self._crossed[~self._pending[self._regions(self._crossed)]]
        return SurfaceSamples(self._values[-1], self._crossed)

    def widen_bounds(self) -> None:
        """Raises all bounds and marks all regions for another search."""
        self._pending[:] = True
        self.bounds.widen(self._pending)

    def _descend(self, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Returns the sign-changing cells in coarsest cells, without those of regions now pending."""
        for level, stride in enumerate(self._strides):
            self._fetch(level, (self._corners(chunk, stride) for chunk in _chunks(cells)))
            cells = self._check(level, cells)
            if stride == 2:
                break
            children = [self._split(level, chunk) for chunk in _chunks(cells)]
            cells = np.concatenate([cells[:0], *children])
        return self._finish(level, cells)

    def _check(self, level: int, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Compares slopes with the bounds; returns the cells of regions that are not pending."""
        for chunk in _chunks(cells):
            corners = self._corners(chunk, self._strides[level])
            widths = (corners[:, 7] - corners[:, 0]) * self._sampler.grid.spacing
            self.bounds.observe(np.stack(self._regions(chunk), axis=1), self._get(level, corners), widths)
        self._pending |= self.bounds.settle()
        return cells[~self._pending[self._regions(cells)]]

    def _regions(self, cells: NDArray[np.int32]) -> tuple[NDArray[np.int32], ...]:
        return tuple((cells // self._strides[0]).T)

    def _radii(self, cells: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(M, 8) distances from the corners of cells, in grid spacings, within which there is no zero."""
        radii = self.bounds.radii(np.stack(self._regions(cells), axis=1), values)
        return radii / np.float32(self._sampler.grid.spacing)

    def _corners(self, cells: NDArray[np.int32], stride: int) -> NDArray[np.int32]:
        """(M, 8, 3) samples at the corners of cells."""
        return np.minimum(cells[:, None] + stride * CORNERS, self._last)

    def _get(self, level: int, samples: NDArray[np.int32]) -> NDArray[np.float32]:
        """Reads values from a level's store; the samples must be nodes of that level."""
        return self._values[level].get(-(-samples // self._strides[level]))

    def _fetch(self, level: int, batches: Iterator[NDArray[np.int32]]) -> None:
        """Evaluates the missing ones of batches of samples, (..., 3), and stores them at a level."""
        parts = []
        for batch in batches:
            flat = batch.reshape(-1, 3)
            flat = flat[np.isnan(self._get(level, flat))]
            parts.append(np.unique(np.ravel_multi_index(tuple(flat.T), self._shape)))
        numbers = np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        if not len(numbers):
            return
        samples = np.stack(np.unravel_index(numbers, self._shape), axis=-1).astype(np.int32)
        values = np.full(len(numbers), np.nan, dtype=np.float32)
        if level > 0:  # corners of split cells have values already
            stride = self._strides[level - 1]
            coarser = ((samples % stride == 0) | (samples == self._last)).all(axis=1)
            values[coarser] = self._get(level - 1, samples[coarser])
        missing = np.isnan(values)
        values[missing] = self._sampler.evaluate(numbers[missing], f"cells of {self._strides[level]} samples")
        self._values[level].set(-(-samples // self._strides[level]), values)

    def _split(self, level: int, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Returns the cells of the next level, within these cells, in which a zero cannot be excluded."""
        stride = self._strides[level]
        radii = self._radii(cells, self._get(level, self._corners(cells, stride)))
        uncertain = uncertain_octants(radii, stride)
        children = (cells[:, None] + stride // 2 * CORNERS)[uncertain]
        return children[(children < self._last).all(axis=1)]

    def _finish(self, level: int, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Evaluates the samples near the surface in cells of stride 2; returns those with a sign change."""
        self._fetch(level + 1, (_Block(self, level, chunk).uncertain() for chunk in _chunks(cells)))
        self._fetch(level + 1, (_Block(self, level, chunk).needed() for chunk in _chunks(cells)))
        found = [cells[:0]]
        for chunk in _chunks(cells):
            block = _Block(self, level, chunk)
            wrong = np.zeros_like(self._pending)
            wrong[self._regions(chunk[block.contradicted()])] = True
            self.bounds.widen(wrong)
            self._pending |= wrong
            found.append(block.crossed())
        return self._check(level + 1, np.concatenate(found))


class _Block:
    """The 27 samples of each of some cells, (M, 3), of stride 2; the search stores their values."""

    def __init__(self, search: SurfaceSearch, level: int, cells: NDArray[np.int32]) -> None:
        self._cells = cells
        self._last = search._last
        self._samples = np.minimum(cells[:, None] + _SAMPLES, search._last)  # (M, 27, 3)
        self._values = search._get(level + 1, self._samples)  # (M, 27)
        corners = self._values[:, _OWN_CORNERS] = search._get(level, self._samples[:, _OWN_CORNERS])
        radii = search._radii(cells, corners)
        # A sample within a corner's radius has the corner's sign.
        outside, inside = np.where(corners < 0, 0, radii), np.where(corners < 0, radii, 0)
        # (M, 27) implied to be positive, and to be negative
        self._outside = np.stack([(outside > distances).any(axis=1) for distances in _TO_SAMPLE], axis=1)
        self._inside = np.stack([(inside > distances).any(axis=1) for distances in _TO_SAMPLE], axis=1)
        self._evaluated = ~np.isnan(self._values)

    def uncertain(self) -> NDArray[np.int32]:
        """(N, 3) samples whose sign is neither evaluated nor implied."""
        return self._samples[~self._evaluated & (self._outside == self._inside)]

    def _changing(self) -> NDArray[np.bool_]:
        """(M, 8) True for cells of stride 1 with a sign change, within the grid."""
        negative = np.where(self._evaluated, self._values < 0, self._inside)[:, _CHILD_CORNERS]  # (M, 8, 8)
        within = (self._cells[:, None] + CORNERS < self._last).all(axis=2)
        return np.asarray(negative.any(axis=2) & ~negative.all(axis=2) & within)

    def needed(self) -> NDArray[np.int32]:
        """(N, 3) corners of the cells with a sign change."""
        needed = np.zeros(self._evaluated.shape, dtype=bool)
        changing = self._changing()
        for child, corners in enumerate(_CHILD_CORNERS):
            needed[:, corners] |= changing[:, child, None]
        return self._samples[needed]

    def contradicted(self) -> NDArray[np.bool_]:
        """(M,) True if an implied sign of a sample is wrong, or both signs are implied."""
        wrong = np.where(self._evaluated, np.where(self._values < 0, self._outside, self._inside), False)
        return np.asarray((wrong | (self._inside & self._outside)).any(axis=1))

    def crossed(self) -> NDArray[np.int32]:
        """(M, 3) cells of stride 1 with a sign change."""
        return (self._cells[:, None] + CORNERS)[self._changing()]


def strides_of(shape: tuple[int, int, int]) -> list[int]:
    """Returns the strides of a grid's levels, halving down to 1; [1] for a grid too small to refine."""
    stride = 1
    while (min(shape) - 1) // (2 * stride) >= COARSEST_CELLS:
        stride *= 2
    return [stride >> level for level in range(stride.bit_length())]


def _chunks(cells: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    return (cells[start : start + _CHUNK_CELLS] for start in range(0, len(cells), _CHUNK_CELLS))
