"""Small networks for the tests, with the structure of the published ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from idr.geometry.cameras import pose_matrix
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.implicit_network import ImplicitNetwork, ImplicitNetworkConfig
from idr.model.loss import IDRLoss

CONF: dict[str, Any] = {
    "feature_vector_size": 5,
    "implicit_network": {
        "d_in": 3,
        "d_out": 1,
        "dims": [24, 24, 24],
        "geometric_init": True,
        "bias": 0.6,
        "skip_in": [2],
        "weight_norm": True,
        "multires": 2,
    },
    "rendering_network": {
        "mode": "idr",
        "d_in": 9,
        "d_out": 3,
        "dims": [16, 16],
        "weight_norm": True,
        "multires_view": 2,
    },
    "ray_tracer": {"object_bounding_sphere": 1.0, "line_step_iters": 3, "n_steps": 40},
}


def conf(**changes: Any) -> dict[str, Any]:
    """The small model block; ``block__key=value`` changes a block's key, ``key=value`` one of the model."""
    changed = copy.deepcopy(CONF)
    for name, value in changes.items():
        block, _, key = name.rpartition("__")
        (changed[block] if block else changed)[key] = value
    return changed


def idr_network(seed: int = 0, **changes: Any) -> IDRNetwork:
    """A whole model, determined by the seed; torch's global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IDRNetwork(conf(**changes))


def fill_parameters(network: nn.Module) -> None:
    """Sets all parameters to deterministic random numbers of order one, larger ones in a grid's table."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            size = 1.0 if name.endswith("table") else 0.3
            parameter.copy_(size * (2 * torch.rand(parameter.shape, generator=generator) - 1))


def implicit_network(seed: int = 0, features: int = 4, **keys: Any) -> ImplicitNetwork:
    """An implicit network in float64; by default with two hidden layers of 12."""
    config = ImplicitNetworkConfig(**({"d_in": 3, "d_out": 1, "dims": (12, 12)} | keys))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ImplicitNetwork(features, config).double()


@torch.no_grad()
def roughen(network: nn.Module, amount: float, seed: int) -> None:
    """Adds noise to every parameter in proportion to its spread, to leave the symmetric initialization."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter += amount * noise * parameter.std(unbiased=False).clamp_min(0.02)


def central_differences(function, x: torch.Tensor, step: float) -> torch.Tensor:
    """df/dx of a function (N, D) -> (N,), row by row: (N, D)."""
    columns = []
    for k in range(x.shape[1]):
        shift = torch.zeros_like(x)
        shift[:, k] = step
        columns.append((function(x + shift) - function(x - shift)) / (2 * step))
    return torch.stack(columns, dim=1)


def camera_input(
    num_images: int = 2, num_pixels: int = 20, dtype=torch.float32, vectors: bool = False, seed: int = 0
):
    """Cameras at distance 2.5 looking at the origin, random pixels of a 40 x 40 image, a random mask."""
    generator = torch.Generator().manual_seed(seed)
    intrinsics = torch.eye(4, dtype=dtype).repeat(num_images, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 45.0
    intrinsics[:, 0, 2] = intrinsics[:, 1, 2] = 19.5
    intrinsics[:, 0, 1] = 0.3
    angle = torch.linspace(0, 1, num_images, dtype=dtype)
    quaternion = torch.stack((torch.cos(angle / 2), 0 * angle, torch.sin(angle / 2), 0 * angle), dim=1)
    centers = -2.5 * torch.stack((torch.sin(angle), 0 * angle, torch.cos(angle)), dim=1)
    pose_vectors = torch.cat((1.5 * quaternion, centers), dim=1)
    pose = pose_vectors.requires_grad_(True) if vectors else pose_matrix(pose_vectors)
    return {
        "intrinsics": intrinsics,
        "uv": torch.randint(0, 40, (num_images, num_pixels, 2), generator=generator).to(dtype),
        "pose": pose,
        "object_mask": torch.rand(num_images, num_pixels, generator=generator) < 0.6,
    }


def without_surface(network: IDRNetwork) -> IDRNetwork:
    """The same network with f increased until no ray hits."""
    with torch.no_grad():
        last = network.implicit_network.layer(network.implicit_network.num_layers - 1)
        last.bias += 5.0
    return network


def loss_of(outputs, num_images: int = 2, num_pixels: int = 20, alpha: float = 50.0):
    """The loss terms against a gray photograph."""
    rgb = torch.zeros(num_images, num_pixels, 3, dtype=outputs["rgb_values"].dtype)
    return IDRLoss(0.1, 100.0, alpha)(outputs, {"rgb": rgb})
