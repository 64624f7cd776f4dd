"""The differentiable intersection of a ray with the surface (paper, section 3.1, Eq. 3).

N rays that hit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def differentiable_intersection(
    center: Tensor, direction: Tensor, depth: Tensor, sdf: Tensor, normal: Tensor, min_abs_cos: float = 0.0
) -> Tensor:
    """Returns the intersection as a differentiable function of geometry and camera.

    x = c + t v with t = t0 - (f(c + t0 v; theta) - f0) / (n0 . v0) (Eq. 3). Its value is the traced point;
    its first derivatives w.r.t. theta, c and v are those of the true intersection. The index 0 marks
    constants: the traced depth, f's value, f's gradient and the direction in the quotient.

    Differs: a ray exactly tangent to the surface, where the published formula divides by zero, gets the
    traced depth without a derivative along the ray.

    Args:
        center: (N, 3) camera centers, unit-sphere frame, may require a gradient.
        direction: (N, 3) unit ray directions, may require a gradient.
        depth: (N, 1) traced depths t0.
        sdf: (N, 1) f at c + t0 v, with its graph to theta and, when cameras are trained, to c and v.
        normal: (N, 3) gradient of f at the traced points.
        min_abs_cos: Lower bound on |n0 . v0|. Differs: the published formula has no bound, so one grazing ray
            can dominate the gradient. With a bound, rays closer to tangency get depth derivatives smaller
            than the true ones.

    Returns:
        (N, 3) points.
    """
    slope = (normal.detach() * direction.detach()).sum(dim=1, keepdim=True)  # n0 . v0
    slope = torch.where(slope == 0, torch.full_like(slope, torch.inf), slope)
    slope = slope.sign() * slope.abs().clamp(min=min_abs_cos)
    depth_of_theta = depth.detach() - (sdf - sdf.detach()) / slope  # (N, 1)
    return center + depth_of_theta * direction
