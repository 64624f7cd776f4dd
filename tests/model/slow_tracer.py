"""The published ray tracing once more: one ray at a time, plain Python, no line shared with what it tests.

Written from the description of the method. Besides depth and hit it names the path that the ray took and
counts evaluations of f by stage, so that tests can see that every path was met and that none evaluates more
than it must.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Vector = Sequence[float]


@dataclass
class SlowTracer:
    """Traces single rays.

    Attributes:
        f: The signed distance of one point.
        radius: Of the bounding sphere.
        draws: Numbers in [0, 1] of the smallest-f search; None for evaluation.
        evaluations: Evaluations of f, by stage.
    """

    f: Callable[[Vector], float]
    radius: float
    threshold: float = 5e-5
    step_kept: float = 0.5
    corrections: int = 1
    iterations: int = 10
    samples: int = 100
    secants: int = 8
    draws: Sequence[float] | None = None
    evaluations: Counter = field(default_factory=Counter)

    def trace(self, c: Vector, v: Vector, in_mask: bool) -> tuple[float, bool, str]:
        """Returns depth, hit and the name of the path."""

        def f_at(t: float, stage: str) -> float:
            self.evaluations[stage] += 1
            return self.f([a + t * b for a, b in zip(c, v, strict=True)])

        training = self.draws is not None
        along = sum(a * b for a, b in zip(c, v, strict=True))
        discriminant = along**2 - (sum(a * a for a in c) - self.radius**2)
        if not discriminant > 0:
            return (-along, False, "missed") if training else (0.0, False, "missed")
        sphere_near, sphere_far = (max(0.0, -along + sign * math.sqrt(discriminant)) for sign in (-1, 1))

        near, far, unfinished, corrected = self._both_ends(f_at, sphere_near, sphere_far)
        if unfinished:
            depth, hit, path = self._sample(f_at, near, far, refine=in_mask or not training)
            return depth, hit, path
        depth, hit = near, near < far
        path = ("corrected hit" if corrected else "traced hit") if hit else "ends met"
        if training and (not in_mask or not hit):
            start = near if hit else sphere_near
            depths = [start + u * (sphere_far - start) for u in self.draws]
            values = [f_at(t, "smallest") for t in depths]
            depth, path = depths[values.index(min(values))], f"searched, {path}"
        return depth, hit, path

    def _both_ends(self, f_at, near: float, far: float) -> tuple[float, float, bool, bool]:
        f_near, f_far = f_at(near, "tracing"), f_at(far, "tracing")
        near_moves = far_moves = True
        corrected = False
        for _ in range(self.iterations):
            near_moves = near_moves and f_near > self.threshold
            far_moves = far_moves and f_far > self.threshold
            if near_moves:
                near, f_near, back = self._step(f_at, near, f_near, +1)
                corrected = corrected or back
            if far_moves:
                far, f_far, _ = self._step(f_at, far, f_far, -1)
            if not near < far:
                near_moves = far_moves = False
        return near, far, near_moves and f_near > self.threshold, corrected

    def _step(self, f_at, t: float, value: float, sign: int) -> tuple[float, float, bool]:
        step = sign * value
        t += step
        value = f_at(t, "tracing")
        corrected = False
        for k in range(self.corrections):
            if not value < 0:
                break
            t -= step * (1 - self.step_kept) / 2**k
            value = f_at(t, "tracing")
            corrected = True
        return t, value, corrected

    def _sample(self, f_at, near: float, far: float, refine: bool) -> tuple[float, bool, str]:
        depths = [near + k / (self.samples - 1) * (far - near) for k in range(self.samples)]
        values = [f_at(t, "sampler") for t in depths]
        smallest = depths[values.index(min(values))]
        inside = [k for k, value in enumerate(values) if value < 0]
        if not inside:
            return smallest, False, "sampled miss"
        if not refine:
            return smallest, True, "sampled hit outside the mask"
        if inside[0] == 0:
            return depths[0], True, "first sample inside"
        return self._regula_falsi(f_at, depths, values, inside[0]), True, "sampled hit"

    def _regula_falsi(self, f_at, depths, values, high: int) -> float:
        z_lo, f_lo, z_hi, f_hi = depths[high - 1], values[high - 1], depths[high], values[high]
        z = z_lo - f_lo * (z_hi - z_lo) / (f_hi - f_lo)
        for _ in range(self.secants):
            value = f_at(z, "secant")
            if value > 0:
                z_lo, f_lo = z, value
            elif value < 0:
                z_hi, f_hi = z, value
            z = z_lo - f_lo * (z_hi - z_lo) / (f_hi - f_lo)
        return z
