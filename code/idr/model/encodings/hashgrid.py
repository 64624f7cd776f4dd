"""Multiresolution hash grid: features on grid vertices, the fine levels hashed (Mueller et al. 2022).

N points, L levels, F features per vertex and level.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.errors import InputError
from idr.model.encodings import hashgrid_torch
from idr.model.encodings.base import Encoding, level_weight
from idr.model.encodings.hashgrid_torch import Level
from idr.model.twins import GridTwin, find_kernel

log = logging.getLogger(__name__)

TRITON = ("triton", "triton_atomic")
"""Backends that run Triton's kernels."""

MAX_LEVELS = 32
MAX_FEATURES = 16
LOG2_TABLE = (4, 24)
"""Range of log2_table: 2^24 rows of two float32 are 128 MiB per level, and three times that in Adam."""
MAX_RESOLUTION = 2**16
START = 1e-4
"""Features start uniform in [-1e-4, 1e-4] (Mueller et al. 2022, section 4)."""


@dataclass(frozen=True)
class HashGridConfig:
    """Keys of the block ``encoding`` with ``type = hashgrid``.

    Attributes:
        type: Name of the encoding.
        levels: L.
        features: F.
        log2_table: Base-2 logarithm of the maximum number of rows per level.
        base_resolution: Cells per side of the coarsest level.
        finest_resolution: Cells per side of the finest level; resolutions in between grow geometrically.
        pixels_per_cell: Width of a cell of the finest level, in pixels at the center of the scene. A training
            with it computes `finest_resolution` from the cameras, see `idr.conf.grids`.
        bound: Half the side of the cube that the grids cover, unit-sphere frame; at least the radius
            ``model.ray_tracer.object_bounding_sphere``.
        backend: ``numba`` for compiled loops (CPU, float32; ``pip install 'idr-surface[fast]'``), ``torch``
            for plain torch, ``auto`` for numba where possible, else torch. ``triton`` for Triton's kernels on
            a GPU (float32; not yet run on one, so ``auto`` does not choose it), also for the networks and for
            the tracer ``strategy = compiled``; ``triton_atomic`` for the same with sums of the table's
            gradient in an order that differs from run to run (not deterministic).
    """

    type: str = "hashgrid"
    levels: int = 12
    features: int = 2
    log2_table: int = 17
    base_resolution: int = 16
    finest_resolution: int = 512
    pixels_per_cell: float | None = None
    bound: float = 1.0
    backend: Literal["auto", "torch", "numba", "triton", "triton_atomic"] = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= MAX_LEVELS:
            raise InputError(f"levels = {self.levels}: expected 1 to {MAX_LEVELS} levels")
        if not 1 <= self.features <= MAX_FEATURES:
            raise InputError(f"features = {self.features}: expected 1 to {MAX_FEATURES} features a level")
        if not LOG2_TABLE[0] <= self.log2_table <= LOG2_TABLE[1]:
            raise InputError(
                f"log2_table = {self.log2_table}: expected {LOG2_TABLE[0]} to {LOG2_TABLE[1]}, for "
                f"2^{LOG2_TABLE[0]} to 2^{LOG2_TABLE[1]} rows a level"
            )
        if self.base_resolution < 1:
            raise InputError(f"base_resolution = {self.base_resolution}: expected 1 or more cells a side")
        if not self.base_resolution <= self.finest_resolution <= MAX_RESOLUTION:
            raise InputError(
                f"finest_resolution = {self.finest_resolution}: expected base_resolution "
                f"({self.base_resolution}) to {MAX_RESOLUTION} cells a side"
            )
        if self.bound <= 0:
            raise InputError(f"bound = {self.bound}: expected half the side of a cube, above 0")
        if self.backend == "numba" and find_kernel("hashgrid_numba") is None:
            raise InputError(
                "backend = numba: numba is not installed or does not work: pip install 'idr-surface[fast]'"
            )
        if self.backend in TRITON and find_kernel("hashgrid_triton") is None:
            raise InputError(
                f"backend = {self.backend}: Triton is not installed or does not work; on Linux: pip install "
                "triton; elsewhere set backend = auto"
            )


@functools.cache
def _log_once(level: int, backend: str, reason: str) -> None:
    log.log(level, "hash grid: computed by %s (%s)", backend, reason)


def grid_levels(config: HashGridConfig) -> tuple[Level, ...]:
    """Lays out the levels (Mueller et al. 2022, Eqs. 2 and 3).

    Args:
        config: The block's values.

    Returns:
        The levels, coarsest first; their rows follow one another in the table.
    """
    levels, offset = [], 0
    log_ratio = math.log(config.finest_resolution) - math.log(config.base_resolution)
    growth = log_ratio / max(config.levels - 1, 1)
    for number in range(config.levels):
        # The tolerance corrects powers that rounding puts just below an integer.
        resolution = math.floor(config.base_resolution * math.exp(growth * number) + 1e-6)
        num_vertices, rows = (resolution + 1) ** 3, 2**config.log2_table
        dense = num_vertices <= rows
        levels.append(Level(resolution, offset, num_vertices if dense else rows, dense))
        offset += levels[-1].size
    return tuple(levels)


class HashGrid(Encoding):
    """The point, then the features of each level, interpolated trilinearly between vertices.

    Closed levels (see `Encoding`) give zeros and get no gradient. All levels are open at first.
    """

    starts_near_zero = True

    def __init__(self, config: HashGridConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = config.levels
        self.open_levels = float(config.levels)
        self.width = 3 + config.levels * config.features
        self.grids = grid_levels(config)
        num_rows = self.grids[-1].offset + self.grids[-1].size
        self.table = nn.Parameter(torch.empty(num_rows, config.features).uniform_(-START, START))
        numbers = torch.tensor([(grid.resolution, grid.offset, grid.size) for grid in self.grids])
        self.register_buffer("_levels", numbers.T.contiguous(), persistent=False)

    def spacing(self) -> float:
        """Returns the cell size of the finest open level, geometric between levels, see `Encoding.spacing`.

        Without an open level, returns that of the coarsest.
        """
        open_levels = min(max(self.open_levels, 1.0), float(self.levels))
        whole = math.floor(open_levels)
        coarse, fine = (self.grids[number - 1].resolution for number in (whole, math.ceil(open_levels)))
        return 2 * self.config.bound / (coarse * (fine / coarse) ** (open_levels - whole))

    @property
    def num_open(self) -> int:
        """Number of levels that are open or partly open."""
        return min(max(math.ceil(self.open_levels), 0), self.levels)

    @property
    def last_weight(self) -> float:
        """Weight of the last open level, see `level_weight`."""
        return level_weight(self.num_open - 1, self.open_levels)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes points, see `Encoding.forward`.

        Raises:
            InputError: The backend cannot compute on this device or in this dtype.
        """
        num_open = self.num_open
        if num_open == 0:
            return functional.pad(x, (0, self.width - 3))
        twin, bound = self.twin(x), self.config.bound
        if twin is not None:
            features = twin.interpolate(x, self.table, self.grids[:num_open], bound)  # (N, open levels F)
        else:
            levels = self.get_buffer("_levels")[:, :num_open]
            features = hashgrid_torch.interpolate(x, self.table, levels, bound)
        if self.last_weight < 1:
            ones = features.new_ones((num_open - 1) * self.config.features)
            features = features * functional.pad(ones, (0, self.config.features), value=self.last_weight)
        encoded = torch.cat((x, features), dim=1)
        return functional.pad(encoded, (0, self.width - encoded.shape[1]))

    def check_device(self) -> None:
        """Raises `InputError` for a backend that cannot compute there, see `Encoding.check_device`."""
        self.twin(self.table.new_empty(0, 3))

    def twin(self, x: Tensor) -> GridTwin | None:
        """Returns the kernels that compute this grid at points x (N, 3); None for plain torch.

        Raises:
            InputError: The backend cannot compute on this device or in this dtype.
        """
        backend, is_float = self.config.backend, x.dtype == self.table.dtype == torch.float32
        if backend in TRITON:
            return self._triton(x, is_float)
        fits = is_float and x.device.type == "cpu"
        if backend == "numba" and not fits:
            raise InputError(
                f"model.implicit_network.encoding.backend = numba: points are {x.dtype} on {x.device}; it "
                "computes torch.float32 on a CPU; set backend = auto"
            )
        module = find_kernel("hashgrid_numba") if fits and backend != "torch" else None
        if backend != "auto":
            reason = "as the conf says"
        elif module is not None:
            reason = "CPU, float32"
        elif fits:
            reason = "numba is not installed; pip install 'idr-surface[fast]' is faster"
        else:
            reason = f"{x.device.type}, {x.dtype}"
        level = logging.INFO if module is None and fits else logging.DEBUG
        _log_once(level, "torch" if module is None else "numba", reason)
        return None if module is None else module.TWIN

    def _triton(self, x: Tensor, is_float: bool) -> GridTwin:
        module, backend = find_kernel("hashgrid_triton"), self.config.backend
        assert module is not None  # `HashGridConfig` refuses it
        if not is_float or not module.runs_on(x.device):
            raise InputError(
                f"model.implicit_network.encoding.backend = {backend}: points are {x.dtype} on {x.device}; "
                "it computes torch.float32 on a GPU; set backend = auto (TRITON_INTERPRET=1 in the "
                "environment lets Triton's interpreter try the kernels on a CPU, far slower)"
            )
        _log_once(logging.DEBUG, backend, "as the conf says")
        return module.twin(backend == "triton_atomic")


ENCODING = (HashGridConfig, HashGrid)
