"""IDRNetwork: from rays to points, colors and the inputs of the losses (paper, Figure 2).

B images, P pixels per image, R = B P rays, N shaded rays, F features, E points of the Eikonal term. With a
tracer of fixed shapes, training shades all R rays.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from idr.conf.files import read_block
from idr.errors import InputError
from idr.fields.sdf_grid import Sdf
from idr.geometry.cameras import pixel_rays
from idr.geometry.spheres import SphereCrossing, ray_sphere_intersection
from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from idr.model.layers import folded_weights
from idr.model.rendering_network import RenderingNetwork, RenderingNetworkConfig
from idr.model.sample_network import differentiable_intersection
from idr.model.tracing import TracerConfig, TraceRequest, TraceResult, make_tracer, read_tracer_config
from idr.model.tracing.common import Rays, first_true_indices
from idr.model.tracing.published import PublishedTracer

SHADING_CHUNK = 10_000
"""Points shaded at once in evaluation; bounds the memory of the rendering network."""


@dataclass(frozen=True)
class ModelConfig:
    """Keys of the block ``model``.

    Attributes:
        feature_vector_size: F, number of features that the implicit network passes to the rendering network.
        implicit_network: Block of the signed distance network.
        rendering_network: Block of the appearance network.
        ray_tracer: Block of the ray tracer.
        min_abs_cos: Lower bound on |n . v| in `differentiable_intersection`; published: 0.
    """

    LARGEST: ClassVar[dict[str, int]] = {"feature_vector_size": 8192}

    feature_vector_size: int
    implicit_network: Mapping[str, Any]
    rendering_network: Mapping[str, Any]
    ray_tracer: Mapping[str, Any]
    min_abs_cos: float = 0.0

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"smallest_slope": "min_abs_cos"}

    def __post_init__(self) -> None:
        if self.feature_vector_size < 0:
            raise InputError(f"feature_vector_size = {self.feature_vector_size}: expected 0 or more")
        if not 0 <= self.min_abs_cos <= 1:
            raise InputError(f"min_abs_cos = {self.min_abs_cos}: expected a cosine, 0 to 1")


@dataclass(frozen=True)
class StepDraws:
    """The random numbers of one training step.

    Attributes:
        depths: (S,) U(0, 1), the fractions of each chord at which f is sampled for its minimum.
        eikonal_points: (floor(R / 2), 3) uniform in the cube around the bounding sphere.
    """

    depths: Tensor
    eikonal_points: Tensor


def draw_step(
    num_rays: int, config: TracerConfig, like: Tensor, generator: torch.Generator | None
) -> StepDraws:
    """Draws the random numbers of one training step.

    Args:
        num_rays: R.
        config: Defines the number of samples and half the side of the cube.
        like: A tensor with the device and dtype to use.
        generator: Random generator on the same device; None for torch's default.
    """
    radius = config.object_bounding_sphere
    depths = torch.rand(config.n_steps, generator=generator, dtype=like.dtype, device=like.device)
    cube = torch.rand(num_rays // 2, 3, generator=generator, dtype=like.dtype, device=like.device)
    return StepDraws(depths, (2 * cube - 1) * radius)


class IDRNetwork(nn.Module):
    """Geometry and appearance of one scene.

    Args:
        conf: The block ``model``.

    Raises:
        InputError: A key is missing or misspelled, or a value does not fit.
    """

    def __init__(self, conf: Mapping[str, Any]) -> None:
        super().__init__()
        config = read_block(ModelConfig, conf, "model", unknown="warn")
        self.feature_vector_size = config.feature_vector_size
        self.min_abs_cos = config.min_abs_cos
        self.implicit_network = ImplicitNetwork(
            config.feature_vector_size,
            read_block(ImplicitNetworkConfig, config.implicit_network, "model.implicit_network"),
        )
        self.rendering_network = RenderingNetwork(
            config.feature_vector_size,
            read_block(RenderingNetworkConfig, config.rendering_network, "model.rendering_network"),
        )
        self.tracer_config = read_tracer_config(config.ray_tracer)
        self.object_bounding_sphere = self.tracer_config.object_bounding_sphere
        self.ray_tracer = make_tracer(self.tracer_config)
        self.ray_tracer.attach(self.implicit_network)
        self.register_load_state_dict_post_hook(_discard_tracer_state)

    def forward(self, model_input: Mapping[str, Any]) -> dict[str, Tensor | None]:
        """Traces and renders rays.

        Args:
            model_input: ``intrinsics`` (B, 4, 4); ``uv`` (B, P, 2) pixels (column, row); ``pose`` (B, 4, 4)
                or (B, 7), camera-to-world in the unit-sphere frame; ``object_mask`` (B, P) bool. In training
                optionally ``draws``, a `StepDraws`, or ``generator``, from which to draw them, and ``mixed``
                (B, P) bool, pixels that show object and background: their colors do not move the surface
                point.

        Returns:
            ``points`` (R, 3); ``rgb_values`` (R, 3) in [-1, 1], 1 for rays that are not shaded;
            ``sdf_output`` (R, 1) at the points; ``network_object_mask`` (R,) hit flags; ``object_mask`` (R,)
            of the input; ``grad_theta`` (E, 3) gradients of f at the points of the cube, then at all R
            points, or None in evaluation. In training also ``surface_points`` (R, 3): `points`, for shaded
            rays with the derivatives of the differentiable intersection.
        """
        directions, centers = pixel_rays(model_input["uv"], model_input["pose"], model_input["intrinsics"])
        object_mask = model_input["object_mask"].reshape(-1)  # (R,)
        direction = directions.reshape(-1, 3)  # (R, 3)
        center = centers.repeat_interleave(directions.shape[1], dim=0)  # (R, 3)
        draws = None
        if self.training:
            draws = model_input.get("draws") or draw_step(
                direction.shape[0], self.tracer_config, direction, model_input.get("generator")
            )

        traced = self._trace(centers, directions, object_mask, draws)
        depth = traced.depth.unsqueeze(1)  # (R, 1)
        points = center + depth * direction  # differentiable w.r.t. the cameras; the depth is constant
        shaded: Tensor | slice  # (N,) indices, or all rays
        if draws is None:
            shades = traced.hit  # (R,)
            shaded = _indices(shades, traced.num_shaded)  # (N,)
            grad_theta = None
            colors, sdf = self._shade_in_chunks(points[shaded], -direction[shaded])  # (N, 3), (N, 1)
            if traced.value is None:
                sdf_output = self.implicit_network(points)[:, :1]
            else:
                sdf_output = traced.value.unsqueeze(1).index_put((shaded,), sdf)
        else:
            shades = traced.hit & object_mask  # (R,)
            shaded = slice(None) if self.ray_tracer.fixed_shapes else _indices(shades, traced.num_shaded)
            sdf_output, grad_theta = self._sdf_in_training(points, draws.eikonal_points, traced.hit)
            normal = grad_theta[draws.eikonal_points.shape[0] :]  # (R, 3), at the traced points
            surface = differentiable_intersection(
                center[shaded], direction[shaded], depth[shaded], sdf_output[shaded], normal[shaded],
                min_abs_cos=self.min_abs_cos,
            )  # fmt: skip
            shading_points = surface
            if "mixed" in model_input:
                mixed = model_input["mixed"].reshape(-1)[shaded].unsqueeze(1)
                shading_points = torch.where(mixed, surface.detach(), surface)
            colors, _ = self.shade(shading_points, -direction[shaded])
        outputs = {
            "points": points,
            "rgb_values": _replaced(torch.ones_like(points), shaded, shades, colors),
            "sdf_output": sdf_output,
            "network_object_mask": traced.hit,
            "object_mask": object_mask,
            "grad_theta": grad_theta,
        }
        if draws is not None:
            outputs["surface_points"] = _replaced(points, shaded, shades, surface)
        return outputs

    def _sdf_in_training(self, points: Tensor, eikonal_points: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates f and its gradient in one pass for the mask and the Eikonal loss; the tracer observes f.

        The Eikonal loss treats the points as constants; the mask loss backpropagates through them to the
        cameras. The pass uses detached points, and its gradient adds f's dependence on the points to first
        order. The first derivatives equal those of f evaluated at the points themselves; with ``gradient =
        numerical``, up to the error of the differences.

        Returns:
            sdf_output: (R, 1) f at the traced points (R, 3), which may have a graph to the cameras.
            grad_theta: (E, 3) gradients at the points of the cube (E - R, 3), then at the traced points.
        """
        fixed = points.detach()
        all_points = torch.cat((eikonal_points, fixed))  # (E, 3)
        values, grad_theta = self.implicit_network.sdf_and_gradient(all_points)
        self.ray_tracer.observe(all_points, values.detach().squeeze(1), hit)
        sdf_output = values[eikonal_points.shape[0] :]
        if points.requires_grad:
            normal = grad_theta[eikonal_points.shape[0] :].detach()
            sdf_output = sdf_output + (normal * (points - fixed)).sum(dim=1, keepdim=True)
        return sdf_output, grad_theta

    def shade(self, points: Tensor, view_dirs: Tensor) -> tuple[Tensor, Tensor]:
        """Renders surface points with the features and normals there; nothing is detached.

        Args:
            points: (N, 3), unit-sphere frame; N may be 0.
            view_dirs: (N, 3) unit vectors from the point to the camera.

        Returns:
            colors: (N, 3) RGB in [-1, 1].
            sdf: (N, 1) f at the points.
        """
        output, normals = self.implicit_network.value_and_gradient(points)
        return self.rendering_network(points, normals, view_dirs, output[:, 1:]), output[:, :1]

    def _shade_in_chunks(self, points: Tensor, view_dirs: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(points.split(SHADING_CHUNK), view_dirs.split(SHADING_CHUNK), strict=True)
        colors, sdf = zip(*(self.shade(*pair) for pair in pairs), strict=True)
        return torch.cat(colors), torch.cat(sdf)

    @torch.no_grad()
    def _trace(
        self, centers: Tensor, directions: Tensor, object_mask: Tensor, draws: StepDraws | None
    ) -> TraceResult:
        """Traces the rays from centers (B, 3) along directions (B, P, 3); the result has fields (R,)."""
        crossing = ray_sphere_intersection(centers, directions, self.object_bounding_sphere)
        flat = SphereCrossing(*(x.reshape(-1) for x in (crossing.near, crossing.far, crossing.crosses)))
        rays = Rays(centers.repeat_interleave(directions.shape[1], dim=0), directions.reshape(-1, 3))
        with folded_weights(self.implicit_network):
            sdf = self._sdf(rays.origin)
            if draws is None:
                request = TraceRequest.for_evaluation(sdf, rays, flat, self._weights_version())
            else:
                request = TraceRequest.for_training(sdf, rays, flat, object_mask, draws.depths)
            return self.ray_tracer.trace(request)

    @torch.no_grad()
    def is_free(self, origins: Tensor, targets: Tensor, margin: float) -> Tensor:
        """Returns whether segments meet no surface before their last piece; the tracer's state is left alone.

        Args:
            origins: (R, 3) starts of the segments, such as camera centers.
            targets: (R, 3) their ends, such as surface points.
            margin: Length of the last piece, unit-sphere units.

        Returns:
            (R,) bool.
        """
        way = targets - origins
        length = way.norm(dim=1)
        rays = Rays(origins, way / length.unsqueeze(1))
        crossing = ray_sphere_intersection(origins, rays.direction.unsqueeze(1), self.object_bounding_sphere)
        near, far = crossing.near[:, 0], torch.minimum(crossing.far[:, 0], length - margin)
        chord = SphereCrossing(near, far, crossing.crosses[:, 0] & (near < far))
        with folded_weights(self.implicit_network):
            request = TraceRequest.for_evaluation(self._sdf(origins), rays, chord)
            twin = self.implicit_network.twin(origins)
            if twin is not None and twin.first_hits is not None:
                return ~twin.first_hits(request, self.tracer_config)[1]
            return ~PublishedTracer(self.tracer_config).trace(request).hit

    def _sdf(self, like: Tensor) -> Sdf:
        """Returns f with the current weights for the tracer, at points like these."""
        if self.tracer_config.strategy == "published":  # bit-equal to the published numbers
            return lambda x: self.implicit_network(x)[:, 0]
        return self.implicit_network.sdf_of_fixed_weights(like)

    def tracer_state(self) -> dict[str, Any] | None:
        """Returns the tracer's state between training steps, tensors and plain values; None if there is none.

        It is not part of ``state_dict``: checkpoints store it in a separate file.
        """
        return self.ray_tracer.state()

    def load_tracer_state(self, state: Mapping[str, Any], where: str) -> None:
        """Loads the result of `tracer_state`, after the weights were loaded; see `Tracer.load_state`."""
        self.ray_tracer.load_state(state, next(self.parameters()), where)

    def _weights_version(self) -> tuple[Hashable, ...]:
        """Returns a value that changes whenever f does: with the weights, their device or the open levels."""
        network = self.implicit_network
        return network.encoding.open_levels, *((p.data_ptr(), p._version) for p in network.parameters())


def _indices(flags: Tensor, count: int | None) -> Tensor:
    """Returns the indices of true flags; a known count avoids synchronizing with an accelerator."""
    return flags.nonzero().squeeze(1) if count is None else first_true_indices(flags, count)


def _replaced(old: Tensor, shaded: Tensor | slice, shades: Tensor, new: Tensor) -> Tensor:
    """Returns rows (R, 3) with those of shaded rays replaced by new ones, (N, 3); of (R, 3), by theirs."""
    if isinstance(shaded, slice):
        return torch.where(shades.unsqueeze(1), new, old)
    return old.index_put((shaded,), new)


def _discard_tracer_state(network: nn.Module, incompatible_keys: Any) -> None:
    """Discards the tracer's state, which belongs to the replaced weights."""
    cast(IDRNetwork, network).ray_tracer.discard()
