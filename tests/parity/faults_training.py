"""Misreadings of the gradients and of the losses, each a function that plants it by a monkeypatch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from idr.geometry import cameras
from idr.model import implicit_differentiable_renderer as renderer
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.loss import IDRLoss

Patch = pytest.MonkeyPatch


# --- gradients ----------------------------------------------------------------------------------------------


def norm_of_the_quaternion_outside_the_graph(patch: Patch) -> None:
    rotation = cameras.quaternion_to_rotation

    def with_constant_norm(q: Tensor) -> Tensor:
        # The same value: the rotation of q / |q|, differentiated as if |q| were a constant.
        unit = q / q.norm(dim=-1, keepdim=True).detach()
        w, x, y, z = unit.unbind(-1)
        rows = (
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        )  # fmt: skip
        matrix = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
        assert (matrix - rotation(q)).abs().max() < 1e-6
        return matrix

    patch.setattr(cameras, "quaternion_to_rotation", with_constant_norm)


def _shade_with(patch: Patch, hold: Callable) -> None:
    def shade(self: IDRNetwork, points: Tensor, view_dirs: Tensor) -> tuple[Tensor, Tensor]:
        output, normals = self.implicit_network.value_and_gradient(points)
        return self.rendering_network(*hold(points, normals, view_dirs, output[:, 1:])), output[:, :1]

    patch.setattr(IDRNetwork, "shade", shade)


def normal_detached(patch: Patch) -> None:
    _shade_with(patch, lambda points, normals, views, features: (points, normals.detach(), views, features))


def feature_detached(patch: Patch) -> None:
    _shade_with(patch, lambda points, normals, views, features: (points, normals, views, features.detach()))


def view_direction_detached(patch: Patch) -> None:
    _shade_with(patch, lambda points, normals, views, features: (points, normals, views.detach(), features))


def intersection_not_differentiated(patch: Patch) -> None:
    patch.setattr(
        renderer,
        "differentiable_intersection",
        lambda center, direction, depth, sdf, normal, **how: center + depth * direction,
    )


def intersection_with_fixed_camera(patch: Patch) -> None:
    intersection = renderer.differentiable_intersection
    patch.setattr(
        renderer,
        "differentiable_intersection",
        lambda center, direction, *rest, **how: intersection(
            center.detach(), direction.detach(), *rest, **how
        ),
    )


def intersection_moved_the_wrong_way(patch: Patch) -> None:
    intersection = renderer.differentiable_intersection
    patch.setattr(
        renderer,
        "differentiable_intersection",
        lambda center, direction, depth, sdf, normal, **how: intersection(
            center, direction, depth, sdf, -normal, **how
        ),
    )


def mask_loss_without_camera_gradient(patch: Patch) -> None:
    forward = IDRNetwork.forward

    def with_detached_points(self: IDRNetwork, batch) -> dict:
        outputs = forward(self, batch)
        outputs["sdf_output"] = self.implicit_network(outputs["points"].detach())[:, :1]
        return outputs

    patch.setattr(IDRNetwork, "forward", with_detached_points)


# --- losses -------------------------------------------------------------------------------------------------


def squares_for_l1(patch: Patch) -> None:
    patch.setattr(
        IDRLoss,
        "rgb_loss",
        lambda self, values, rgb, shaded: ((values - rgb) ** 2)[shaded].sum() / shaded.shape[0],
    )


def rgb_loss_divided_by_hits(patch: Patch) -> None:
    loss = IDRLoss.rgb_loss
    patch.setattr(
        IDRLoss,
        "rgb_loss",
        lambda self, values, rgb, shaded: loss(self, values, rgb, shaded) * shaded.shape[0] / shaded.sum(),
    )


def mask_loss_not_divided_by_alpha(patch: Patch) -> None:
    loss = IDRLoss.mask_loss
    patch.setattr(IDRLoss, "mask_loss", lambda self, *given: loss(self, *given) * self.alpha)


def mask_loss_over_all_rays(patch: Patch) -> None:
    loss = IDRLoss.mask_loss
    patch.setattr(
        IDRLoss, "mask_loss", lambda self, sdf, shaded, mask: loss(self, sdf, torch.zeros_like(shaded), mask)
    )


def mask_loss_with_the_other_sign(patch: Patch) -> None:
    loss = IDRLoss.mask_loss
    patch.setattr(IDRLoss, "mask_loss", lambda self, sdf, *rest: loss(self, -sdf, *rest))


def eikonal_at_the_cube_alone(patch: Patch) -> None:
    loss = IDRLoss.eikonal_loss
    patch.setattr(
        IDRLoss, "eikonal_loss", lambda self, grad, like: loss(self, grad[: grad.shape[0] // 3], like)
    )


def eikonal_without_square(patch: Patch) -> None:
    patch.setattr(IDRLoss, "eikonal_loss", lambda self, grad, like: (grad.norm(dim=1) - 1).abs().mean())
