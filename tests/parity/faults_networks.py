"""Misreadings of the networks and of the ray tracing, each a function that plants it by a monkeypatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from idr.geometry import cameras
from idr.model import implicit_differentiable_renderer as renderer
from idr.model import implicit_network, rendering_network
from idr.model.encodings import sinusoids
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.implicit_network import ImplicitNetwork
from idr.model.layers import WeightNormLinear
from idr.model.rendering_network import RenderingNetwork
from idr.model.tracing.common import TraceRequest
from idr.model.tracing.published import PublishedTracer

Patch = pytest.MonkeyPatch


# --- networks -----------------------------------------------------------------------------------------------


def softplus_of_beta_one(patch: Patch) -> None:
    patch.setattr(implicit_network, "SOFTPLUS_BETA", 1.0)


def relu_for_softplus(patch: Patch) -> None:
    patch.setattr(implicit_network.functional, "softplus", lambda x, *rest: functional.relu(x))


def skip_not_divided_by_root_two(patch: Patch) -> None:
    patch.setattr(implicit_network, "math", SimpleNamespace(sqrt=lambda x: 1.0, pi=math.pi))


def skip_concatenated_the_other_way_round(patch: Patch) -> None:
    def cat(tensors, dim):
        return torch.cat(tuple(reversed(tensors)), dim=dim)

    patch.setattr(implicit_network, "torch", SimpleNamespace(**vars(torch) | {"cat": cat}))


def _encode(parts_of_octave) -> Callable[[Tensor, int], Tensor]:
    def encoding(x: Tensor, octaves: int) -> Tensor:
        parts = [part for k in range(octaves) for part in parts_of_octave(x, k)]
        return torch.cat([x, *parts], dim=-1)

    return encoding


def _encode_otherwise(patch: Patch, parts_of_octave) -> None:
    for module in (sinusoids, rendering_network):
        patch.setattr(module, "positional_encoding", _encode(parts_of_octave))


def cosine_before_sine(patch: Patch) -> None:
    _encode_otherwise(patch, lambda x, k: (torch.cos(2**k * x), torch.sin(2**k * x)))


def octaves_times_pi(patch: Patch) -> None:
    _encode_otherwise(patch, lambda x, k: (torch.sin(2**k * math.pi * x), torch.cos(2**k * math.pi * x)))


class _VAlone(WeightNormLinear):
    """The layer with its weight normalization left out."""

    weight = property(lambda self: self.weight_v)


def last_layer_not_weight_normalized(patch: Patch) -> None:
    forward = ImplicitNetwork.hidden

    def hidden(self: ImplicitNetwork, x: Tensor, activation) -> Tensor:
        self.layer(self.num_layers - 1).__class__ = _VAlone
        return forward(self, x, activation)

    patch.setattr(ImplicitNetwork, "hidden", hidden)


def weight_normalized_by_one_norm_of_the_matrix(patch: Patch) -> None:
    patch.setattr(
        WeightNormLinear,
        "weight",
        property(lambda self: self.weight_v * (self.weight_g / self.weight_v.norm())),
    )


def colors_clipped(patch: Patch) -> None:
    forward = RenderingNetwork.forward
    patch.setattr(RenderingNetwork, "forward", lambda self, *given: forward(self, *given).clamp(0.0, 1.0))


def sigmoid_for_tanh(patch: Patch) -> None:
    forward = RenderingNetwork.forward
    patch.setattr(
        RenderingNetwork, "forward", lambda self, *given: torch.sigmoid(torch.atanh(forward(self, *given)))
    )


def normals_of_length_one(patch: Patch) -> None:
    forward = RenderingNetwork.forward
    patch.setattr(
        RenderingNetwork,
        "forward",
        lambda self, points, normals, *rest: forward(
            self, points, functional.normalize(normals, dim=1), *rest
        ),
    )


# --- rays and tracing ---------------------------------------------------------------------------------------


def half_pixel_shift(patch: Patch) -> None:
    rays = renderer.pixel_rays
    patch.setattr(renderer, "pixel_rays", lambda uv, pose, intrinsics: rays(uv + 0.5, pose, intrinsics))


def world_to_camera_used_as_camera_to_world(patch: Patch) -> None:
    matrix = cameras.pose_matrix
    patch.setattr(cameras, "pose_matrix", lambda pose: torch.linalg.inv(matrix(pose)))


def view_direction_not_negated(patch: Patch) -> None:
    shade = IDRNetwork.shade
    patch.setattr(IDRNetwork, "shade", lambda self, points, view_dirs: shade(self, points, -view_dirs))


def black_background(patch: Patch) -> None:
    forward = IDRNetwork.forward

    def on_black(self: IDRNetwork, given) -> dict:
        outputs = forward(self, given)
        outputs["rgb_values"] = outputs["rgb_values"] * (outputs["rgb_values"] != 1)
        return outputs

    patch.setattr(IDRNetwork, "forward", on_black)


def true_secant_for_regula_falsi(patch: Patch) -> None:
    def secant(self: PublishedTracer, sdf, rays, low, high) -> Tensor:
        (z0, f0), (z1, f1) = low, high
        z = z0 - f0 * (z1 - z0) / (f1 - f0)
        for _ in range(self.config.n_secant_steps):
            f = sdf(rays.at(z))
            z0, f0, z1, f1 = z1, f1, z, f
            z = torch.where(f1 == f0, z1, z1 - f1 * (z1 - z0) / (f1 - f0))  # converged: stay
        return z

    patch.setattr(PublishedTracer, "_regula_falsi", secant)


def bisection_for_regula_falsi(patch: Patch) -> None:
    def bisect(self: PublishedTracer, sdf, rays, low, high) -> Tensor:
        a, b = low[0], high[0]
        for _ in range(self.config.n_secant_steps):
            middle = (a + b) / 2
            outside = sdf(rays.at(middle)) > 0
            a, b = torch.where(outside, middle, a), torch.where(outside, b, middle)
        return (a + b) / 2

    patch.setattr(PublishedTracer, "_regula_falsi", bisect)


def end_sample_left_out(patch: Patch) -> None:
    linspace = torch.linspace
    patch.setattr(torch, "linspace", lambda a, b, steps, **kind: linspace(a, b, steps + 1, **kind)[:-1])


def sampler_over_the_whole_chord(patch: Patch) -> None:
    trace = PublishedTracer.trace

    def remember(self: PublishedTracer, request: TraceRequest):
        self.chord = request.crossing
        return trace(self, request)

    both_ends = PublishedTracer._trace_from_both_ends

    def restart(self: PublishedTracer, *given):
        ends = both_ends(self, *given)
        near = torch.where(ends.near_unfinished, self.chord.near, ends.near)
        far = torch.where(ends.near_unfinished, self.chord.far, ends.far)
        return type(ends)(near, far, ends.near_unfinished)

    patch.setattr(PublishedTracer, "trace", remember)
    patch.setattr(PublishedTracer, "_trace_from_both_ends", restart)


def smallest_magnitude_for_smallest_f(patch: Patch) -> None:
    smallest = PublishedTracer._minimum
    patch.setattr(
        PublishedTracer, "_minimum", lambda self, sdf, *rest: smallest(self, lambda x: sdf(x).abs(), *rest)
    )


def smallest_f_from_the_sphere_for_hits_too(patch: Patch) -> None:
    smallest = PublishedTracer._minimum

    def from_the_sphere(self, sdf, rays, near, far, fractions) -> Tensor:
        middle = -(rays.origin * rays.direction).sum(dim=1)
        return smallest(self, sdf, rays, (2 * middle - far).clamp_min(0), far, fractions)

    patch.setattr(PublishedTracer, "_minimum", from_the_sphere)


def closest_to_origin_for_smallest_f(patch: Patch) -> None:
    patch.setattr(
        PublishedTracer,
        "_minimum",
        lambda self, sdf, rays, near, far, fractions: -(rays.origin * rays.direction).sum(dim=1),
    )


def mask_decides_hits_in_evaluation(patch: Patch) -> None:
    forward = IDRNetwork.forward

    def masked(self: IDRNetwork, given) -> dict:
        outputs = forward(self, given)
        outputs["network_object_mask"] = outputs["network_object_mask"] & outputs["object_mask"]
        return outputs

    patch.setattr(IDRNetwork, "forward", masked)
