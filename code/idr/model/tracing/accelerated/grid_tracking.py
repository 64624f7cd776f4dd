"""Keeps an SDF grid close to a network in training.

A training step changes f by much more than the tracer's tolerance, but smoothly: near the surface most of the
change is a quadratic function of position. Each step therefore starts with a few evaluations at grid nodes. A
quadratic fitted to the change there updates the whole grid; the residual of the fit bounds |f - grid|: the
drift bound. At the end of a step, f is known where its rays ended and at the points of the Eikonal term; the
residuals there correct the grid (`idr.fields.corrections`). The grid is rebuilt once the evaluations that the
drift bound has cost equal those of a build.

N probed nodes, n nodes per side of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from idr.checkpoints.schema import Kind, check, describe, is_number, is_tensor, misfit, optional, real, whole
from idr.fields.corrections import fit_lattice
from idr.fields.sdf_grid import GRID, SdfGrid, build_sdf_grid, halve_linear
from idr.model.tracing.common import Sdf

T = TypeVar("T")


@dataclass(frozen=True)
class TrackingConstants:
    """Tuned on trained networks.

    Attributes:
        near_probes: Evaluations per step near the surface: nine or ten for each coefficient of the quadratic.
        far_probes: Evaluations per step at any nodes, in turn, to detect a surface that appears elsewhere.
        probed_band: |f|, in radii, below which a node is near the surface.
        drift_safety: Ratio of the drift bound to the largest residual of the probes, which are a sample.
        cost_per_ray: Evaluations per ray for a drift bound of one radius, measured on trained networks.
        max_drift: Drift bound, in radii, beyond which a grid excludes nothing and is rebuilt at once.
        build_margin: Minimum |f|, in radii, in cells that are not split; allows for the steps to come.
        full_levels: Levels that are evaluated in the whole sphere: 32 cells per side suffice to locate the
            minimum of f on rays far from the surface.
        rays_served: Rays traced per grid from which one, or two, halvings of its cells pay off.
        ripples: Deviation of f from the grid, in radii, at wavelengths too short for the corrections. Above
            it, rays that stay clear of the surface search for minima of f itself.
        settling_rays: Training rays before ripples count; until then the overall shape forms.
        ridge: Ridge regularization of the fit, for surfaces too small or too flat to determine all ten
            coefficients.
    """

    near_probes: int = 96
    far_probes: int = 16
    probed_band: float = 0.1
    drift_safety: float = 1.5
    cost_per_ray: float = 12.0
    max_drift: float = 0.15
    build_margin: float = 0.02
    full_levels: int = 1
    rays_served: tuple[int, int] = (0, 100_000)
    ripples: float = 0.004
    settling_rays: int = 150_000
    ridge: float = 1e-4


TRACKING = TrackingConstants()
MAX_LEVEL = len(TRACKING.rays_served)


def _nodes(least: float) -> Kind:
    """Returns the `Kind` of node values of a training grid."""
    shapes = [(GRID.coarsest_cells * 2**level + 1,) * 3 for level in range(MAX_LEVEL + 1)]
    sides = ", ".join(str(shape[0]) for shape in shapes)
    words = f"dense, finite numbers of at least {least:g} on (n, n, n) nodes, n one of {sides}"
    return Kind(words, lambda value: any(is_tensor(value, shape, least) for shape in shapes))


SCHEMA = {
    "radius": real(1e-9),
    "values": _nodes(-math.inf),
    "errors": _nodes(0.0),
    "lipschitz": real(1e-9),
    "num_evaluations": whole(),
    "age": whole(),
    "excess": real(0.0),
    "level": whole(0, MAX_LEVEL),
    "report": Kind(
        "two or three numbers, 0 or more",
        lambda value: (
            isinstance(value, (list, tuple))
            and len(value) in (2, 3)
            and all(is_number(number) and number >= 0 for number in value)
        ),
    ),
    "traced": optional(whole()),
}
"""Schema of `GridTracker.state`."""


class GridTracker:
    """The grid of a network in training.

    Args:
        radius: Radius of the bounding sphere.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.discard()

    def discard(self) -> None:
        """Discards the grid; the next step builds one."""
        self._grid: SdfGrid | None = None
        # (3,) of the last step: rays, rays that missed a surface, ripples
        self._observed: Tensor | None = None
        self._age, self._excess, self._level = 0, 0.0, 1
        self._traced, self._ripples = 0, 0.0

    @property
    def has_ripples(self) -> bool:
        """Whether f has ripples that the grid does not follow, see `TrackingConstants`."""
        return self._traced > TRACKING.settling_rays and self._ripples > TRACKING.ripples * self.radius

    def observe(self, points: Tensor, value: Tensor, missed: Tensor) -> None:
        """Corrects the grid with the values of f that a step computed.

        Processes that share a step's rays all-reduce their observations, so their grids stay equal.

        Args:
            points: (N, 3) points.
            value: (N,) f there.
            missed: (R,) bool, rays that passed a surface without a hit.
        """
        counts = torch.stack((torch.full_like(missed.sum(), missed.numel()), missed.sum())).to(value.dtype)
        if _is_distributed():
            distributed.all_reduce(counts, distributed.ReduceOp.MAX)
        if self._grid is None:
            self._observed = torch.cat((counts, torch.zeros_like(counts[:1])))
            return

        def total(sums: Tensor) -> Tensor:
            if _is_distributed():
                distributed.all_reduce(sums)
            return sums

        correction, ripples = fit_lattice(points, value - self._grid.at(points)[0], self.radius, total)
        self._observed = torch.cat((counts, ripples.reshape(1)))
        while correction.shape[0] < self._grid.values.shape[0]:
            correction = halve_linear(correction)
        self._grid = replace(self._grid, values=self._grid.values + correction)

    def follow(
        self, sdf: Sdf, like: Tensor, look_up: Callable[[SdfGrid, Tensor], tuple[T, Tensor]]
    ) -> tuple[T, float, list[int]]:
        """Updates the grid to the current network and samples it.

        The drift bound is read together with the counts of the samples, so an accelerator synchronizes only
        once. If the grid is no longer usable, it is rebuilt and sampled again.

        Args:
            sdf: f.
            like: A tensor with the device and dtype to use.
            look_up: Samples a grid with a drift bound, a tensor; returns any result and counts (C,) < 2^24.

        Returns:
            The result, the drift bound, and the counts.
        """
        old = self._grid
        if old is not None and (old.values.device, old.values.dtype) == (like.device, like.dtype):
            grid, drift_tensor, observed = self._moved(sdf, old)
            result, counts = look_up(grid, drift_tensor)
            drift_bound, num_rays, num_missed, self._ripples, *counted = torch.cat(
                (drift_tensor.reshape(1), observed.to(drift_tensor), counts.to(drift_tensor))
            ).tolist()  # synchronizes
            self._age += 1
            self._traced += int(num_rays) * (distributed.get_world_size() if _is_distributed() else 1)
            self._excess += TRACKING.cost_per_ray * int(num_rays) * drift_bound / self.radius
            usable = drift_bound <= TRACKING.max_drift * self.radius and self._excess < grid.num_evaluations
            if usable and num_missed == 0:
                self._grid = grid
                return result, drift_bound, [int(count) for count in counted]
            num_rays = int(num_rays)
            self._level = sum(self._age * num_rays >= served for served in TRACKING.rays_served)
        margin = TRACKING.build_margin * self.radius
        grid = build_sdf_grid(sdf, self.radius, self._level, margin, like, TRACKING.full_levels)
        self._grid = grid
        self._age, self._excess, self._observed = 0, 0.0, None
        result, counts = look_up(grid, torch.zeros_like(grid.values[0, 0, 0]))
        return result, 0.0, [int(count) for count in counts.tolist()]

    def _moved(self, sdf: Sdf, grid: SdfGrid) -> tuple[SdfGrid, Tensor, Tensor]:
        """Updates a grid to f; returns it, the drift bound, and the observations (3,) of the last step."""
        flat = grid.values.reshape(-1)
        near, num_near = flat.abs() <= TRACKING.probed_band * self.radius, TRACKING.near_probes
        counts = ((near, num_near), (torch.ones_like(near), TRACKING.far_probes))
        probes = torch.cat([_spread(flags, count, self._age) for flags, count in counts])
        points = _positions(probes, grid)
        before = flat[probes]
        change = sdf(points) - before  # (N,)
        monomials = _quadratic(points / self.radius)  # (N, 10)
        fitted = monomials[:num_near]
        ridge = TRACKING.ridge * torch.eye(10, dtype=points.dtype, device=points.device)
        # Unlike solve, solve_ex does not synchronize; the ridge makes the system nonsingular.
        coefficients, _ = torch.linalg.solve_ex(fitted.T @ fitted + ridge, fitted.T @ change[:num_near])
        moved = replace(grid, values=grid.values + _quadratic_on_nodes(coefficients, grid, self.radius))
        residual = change - monomials @ coefficients
        # Far from the surface a residual matters only if it brings f close to zero.
        harmless = (before + change - residual).abs() - TRACKING.probed_band * self.radius
        drift = torch.where(residual.abs() < harmless, 0, residual.abs())
        observed = torch.zeros(3, device=drift.device) if self._observed is None else self._observed
        return moved, TRACKING.drift_safety * drift.max(), observed

    def state(self) -> dict[str, Any] | None:
        """Returns the state for the next step, tensors and plain values; None without a grid."""
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
            "report": [0, 0, 0] if self._observed is None else self._observed.tolist(),
            "traced": self._traced,
        }

    def load_state(self, state: Mapping[str, Any], like: Tensor, where: str) -> None:
        """Loads the result of `state`, see `Tracer`; ignores a grid whose radius differs from the conf's."""
        check(state, SCHEMA, where, "TracerState")
        values, errors = state["values"], state["errors"]
        if (values.shape, values.dtype) != (errors.shape, errors.dtype):
            raise misfit(where, "TracerState.errors", errors, f"the form of values: {describe(values)}")
        if float(state["radius"]) != self.radius:
            return
        values, errors = values.to(like.device), errors.to(like.device)
        lipschitz, num_evaluations = float(state["lipschitz"]), int(state["num_evaluations"])
        self._grid = SdfGrid(values, errors, self.radius, lipschitz, num_evaluations)
        self._age, self._excess, self._level = int(state["age"]), float(state["excess"]), int(state["level"])
        observed = [*state["report"], 0][:3]  # older checkpoints store only the first two
        self._observed = torch.tensor([float(number) for number in observed], device=like.device)
        self._traced = int(state.get("traced", 0))


def _is_distributed() -> bool:
    """Whether several processes share a step's rays."""
    return distributed.is_available() and distributed.is_initialized()


def _spread(flags: Tensor, count: int, turn: int) -> Tensor:
    """Returns indices of ``count`` true flags (N,), evenly spread and different at every turn.

    They are arbitrary if no flag is true.
    """
    golden = 0.6180339887498949  # its multiples modulo 1 leave no large gaps
    places = (torch.arange(count, device=flags.device, dtype=torch.float64) + turn * golden % 1.0) / count
    rank = flags.cumsum(0)  # (N,)
    target = (places * rank[-1]).long() + 1  # without reading how many flags are true
    return torch.searchsorted(rank, target).clamp_max(flags.shape[0] - 1)


def _positions(flat: Tensor, grid: SdfGrid) -> Tensor:
    """Returns the positions (N, 3) of nodes with flat indices (N,)."""
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
