"""Keeping a grid of f true to a network that training moves.

A step of training moves f by far more than the tracer's tolerance, but smoothly: most of what it moves near
the surface is a quadratic function of the position. So a step begins with a few evaluations at nodes of the
grid; a quadratic fitted to what f has become there moves the whole grid along, and what the fit leaves over
is how far f may be from it: the slack. At the end of a step f is known where its rays ended and at the
Eikonal term's points; what it is off the grid there corrects the grid (`idr.fields.corrections`). The grid
is built anew when the evaluations that the slack costs have summed up to those of a build.

N nodes that are probed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from idr.fields.corrections import fit_lattice
from idr.fields.sdf_grid import SdfGrid, build_sdf_grid, halve_linear
from idr.model.tracing.common import Sdf

T = TypeVar("T")

NEAR_PROBES = 96
"""Evaluations a step near the surface: nine or ten for each coefficient of the quadratic."""

FAR_PROBES = 16
"""Evaluations a step anywhere, by turns, to notice a surface that appears where none was."""

PROBED_BAND = 0.1
"""Nodes with |f| below this many radii are near the surface."""

SLACK_SAFETY = 1.5
"""The slack over the largest misfit among the probes, which are a sample."""

EXCESS = 12.0
"""Evaluations a ray that a slack of one radius costs, as measured on trained networks."""

MAX_SLACK = 0.15
"""Radii of slack beyond which a grid excludes nothing: it is built anew at once."""

BUILD_SLACK = 0.02
"""Radii from zero that f keeps in cells which are not split, for the steps to come."""

WHOLE_LEVELS = 1
"""Levels of the grid that are evaluated in the whole sphere: 32 cells along a side tell where f is smallest
on rays that stay far from the surface."""

RAYS_SERVED = (0, 100_000)
"""Rays that a grid must serve until the next build for one, or two, halvings of its cells to pay: each costs
evaluations once, and saves some a ray."""

WAVES = 0.004
"""Radii by which f differs from the grid in waves too short for its corrections, from which on rays that stay
clear of the surface are to look for dips of f themselves."""

SETTLING_RAYS = 150_000
"""Rays of a training until waves count: before, the shape itself is found, and evaluations go into that."""

RIDGE = 1e-4
"""Weight of small coefficients against misfit, for surfaces too small or flat to fix all ten."""


class GridUpkeep:
    """The grid of a network in training.

    Args:
        radius: Radius of the bounding sphere.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.discard()

    def discard(self) -> None:
        """Forgets the grid: the next step builds one."""
        self._grid: SdfGrid | None = None
        self._report: Tensor | None = None  # (3,) of the last step: rays, those that missed a surface, waves
        self._age, self._excess, self._level = 0, 0.0, 1
        self._traced, self._waves = 0, 0.0

    @property
    def wavy(self) -> bool:
        """Whether f has waves that the grid does not follow, see ``WAVES`` and ``SETTLING_RAYS``."""
        return self._traced > SETTLING_RAYS and self._waves > WAVES * self.radius

    def report(self, points: Tensor, value: Tensor, missed: Tensor) -> None:
        """Hears f at the points of a step, when it is known anyway, and corrects the grid by it.

        Processes that share a step's rays agree on the report, so that their grids stay the same.

        Args:
            points: (N, 3) points.
            value: (N,) f there.
            missed: (R,) bool, rays that went through a surface unseen.
        """
        report = torch.stack((torch.full_like(missed.sum(), missed.numel()), missed.sum())).to(value.dtype)
        if _together():
            distributed.all_reduce(report, distributed.ReduceOp.MAX)
        if self._grid is None:
            self._report = torch.cat((report, torch.zeros_like(report[:1])))
            return

        def total(sums: Tensor) -> Tensor:
            if _together():
                distributed.all_reduce(sums)
            return sums

        correction, waves = fit_lattice(points, value - self._grid.at(points)[0], self.radius, total)
        self._report = torch.cat((report, waves.reshape(1)))
        while correction.shape[0] < self._grid.values.shape[0]:
            correction = halve_linear(correction)
        self._grid = replace(self._grid, values=self._grid.values + correction)

    def follow(
        self, sdf: Sdf, like: Tensor, look: Callable[[SdfGrid, Tensor], tuple[T, Tensor]]
    ) -> tuple[T, float, list[int]]:
        """Brings the grid to where the network is now, and looks at it.

        Whether the grid still serves is read together with the counts that the look returns: an accelerator
        stops once for both. If it does not serve, it is built anew and looked at again.

        Args:
            sdf: f.
            like: A tensor that gives device and dtype.
            look: Takes the grid and the slack, a tensor: what f may differ from the grid at its nodes;
                returns anything, and counts (C,) below 2^24.

        Returns:
            What the look returned, the slack, and the counts.
        """
        known = self._grid
        if known is not None and (known.values.device, known.values.dtype) == (like.device, like.dtype):
            grid, slack_there, report = self._moved(sdf, known)
            seen, counts = look(grid, slack_there)
            slack, num_rays, num_missed, self._waves, *counted = torch.cat(
                (slack_there.reshape(1), report.to(slack_there), counts.to(slack_there))
            ).tolist()  # one of the step's reads
            self._age += 1
            self._traced += int(num_rays) * (distributed.get_world_size() if _together() else 1)
            self._excess += EXCESS * int(num_rays) * slack / self.radius
            serves = slack <= MAX_SLACK * self.radius and self._excess < grid.num_evaluations
            if serves and num_missed == 0:
                self._grid = grid
                return seen, slack, [int(count) for count in counted]
            num_rays = int(num_rays)
            self._level = sum(self._age * num_rays >= served for served in RAYS_SERVED)
        self._take(
            build_sdf_grid(sdf, self.radius, self._level, BUILD_SLACK * self.radius, like, WHOLE_LEVELS)
        )
        self._age, self._excess, self._report = 0, 0.0, None
        assert self._grid is not None
        seen, counts = look(self._grid, torch.zeros_like(self._grid.values[0, 0, 0]))
        return seen, 0.0, [int(count) for count in counts.tolist()]

    def _take(self, grid: SdfGrid) -> None:
        """Makes a grid the present one."""
        self._grid = grid

    def _moved(self, sdf: Sdf, grid: SdfGrid) -> tuple[SdfGrid, Tensor, Tensor]:
        """Moves a grid along with f; returns it, the slack, and the last report (3,)."""
        flat = grid.values.reshape(-1)
        near = flat.abs() <= PROBED_BAND * self.radius
        probes = torch.cat(
            (_turn(near, NEAR_PROBES, self._age), _turn(torch.ones_like(near), FAR_PROBES, self._age))
        )
        points = _positions(probes, grid)
        known = flat[probes]
        change = sdf(points) - known  # (N,)
        features = _quadratic(points[:NEAR_PROBES] / self.radius)  # (NEAR_PROBES, 10)
        gram = features.T @ features + RIDGE * torch.eye(10, dtype=points.dtype, device=points.device)
        # solve_ex, since solve makes the host ask whether it went well; the ridge sees to that.
        coefficients, _ = torch.linalg.solve_ex(gram, features.T @ change[:NEAR_PROBES])
        moved = replace(grid, values=grid.values + _quadratic_on_nodes(coefficients, grid, self.radius))
        misfit = change - _quadratic(points / self.radius) @ coefficients
        # Far from the surface only what brings f close to zero matters.
        harmless = (known + change - misfit).abs() - PROBED_BAND * self.radius
        excess = torch.where(misfit.abs() < harmless, 0, misfit.abs())
        report = torch.zeros(3, device=excess.device) if self._report is None else self._report
        return moved, SLACK_SAFETY * excess.max(), report

    def carried(self) -> dict[str, Any] | None:
        """Returns what the next step depends on, as tensors and plain values; None without a grid."""
        if self._grid is None:
            return None
        return {
            "radius": float(self.radius),
            "values": self._grid.values,
            "errors": self._grid.errors,
            "lipschitz": self._grid.lipschitz,
            "num_evaluations": self._grid.num_evaluations,
            "age": self._age,
            "excess": self._excess,
            "level": self._level,
            "report": [0, 0, 0] if self._report is None else self._report.tolist(),
            "traced": self._traced,
        }

    def restore(self, carried: Mapping[str, Any], like: Tensor) -> None:
        """Goes on from what `carried` returned.

        Args:
            carried: What it returned.
            like: A tensor that gives the device.
        """
        if float(carried["radius"]) != self.radius:
            return  # the conf's sphere was changed: a grid of another cube is of no use
        values, errors = (carried[name].to(like.device) for name in ("values", "errors"))
        lipschitz, num_evaluations = float(carried["lipschitz"]), int(carried["num_evaluations"])
        self._take(SdfGrid(values, errors, self.radius, lipschitz, num_evaluations))
        self._age, self._excess = int(carried["age"]), float(carried["excess"])
        self._level = int(carried["level"])
        report = [*carried["report"], 0][:3]  # checkpoints once had the first two only
        self._report = torch.tensor([float(number) for number in report], device=like.device)
        self._traced = int(carried.get("traced", 0))


def _together() -> bool:
    """Whether several processes share a step's rays."""
    return distributed.is_available() and distributed.is_initialized()


def _turn(flags: Tensor, count: int, turn: int) -> Tensor:
    """Picks ``count`` of the set flags (N,), evenly spread, others at every turn; any where none is set."""
    golden = 0.6180339887498949  # successive multiples of it leave no large gaps between 0 and 1
    places = (torch.arange(count, device=flags.device, dtype=torch.float64) + turn * golden % 1.0) / count
    rank = flags.cumsum(0)  # (N,)
    wanted = (places * rank[-1]).long() + 1  # the host need not know how many are set
    return torch.searchsorted(rank, wanted).clamp_max(flags.shape[0] - 1)


def _positions(flat: Tensor, grid: SdfGrid) -> Tensor:
    """Returns (N, 3) positions of nodes given by their flat numbers (N,)."""
    side = grid.values.shape[0]
    index = torch.stack((flat // side**2, flat // side % side, flat % side), dim=1)
    return index.to(grid.values.dtype) * grid.spacing - grid.half_side


def _quadratic(x: Tensor) -> Tensor:
    """Returns the ten monomials up to degree two of points (N, 3) as (N, 10)."""
    one = torch.ones_like(x[:, :1])
    mixed = torch.stack((x[:, 0] * x[:, 1], x[:, 0] * x[:, 2], x[:, 1] * x[:, 2]), dim=1)
    return torch.cat((one, x, x * x, mixed), dim=1)


def _quadratic_on_nodes(coefficients: Tensor, grid: SdfGrid, radius: float) -> Tensor:
    """Evaluates a quadratic of ten coefficients on all nodes of a grid, (n, n, n), axis by axis."""
    side, c = grid.values.shape[0], coefficients
    axis = torch.linspace(-grid.half_side, grid.half_side, side, dtype=c.dtype, device=c.device) / radius
    along = [c[1 + k] * axis + c[4 + k] * axis * axis for k in range(3)]
    x, y, z = axis.view(-1, 1, 1), axis.view(1, -1, 1), axis.view(1, 1, -1)
    in_plane = c[0] + along[0].view(-1, 1, 1) + along[1].view(1, -1, 1) + c[7] * x * y  # (n, n, 1)
    return in_plane + (along[2].view(1, 1, -1) + (c[8] * x + c[9] * y) * z)
