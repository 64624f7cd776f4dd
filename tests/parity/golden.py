"""The golden arrays: what the published code returned for fixed weights and rays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from idr.conf.files import load_conf
from idr.model.implicit_differentiable_renderer import IDRNetwork

FOLDER = Path(__file__).parent / "golden"
NAMES = ("a", "b", "c")

# Largest absolute difference over the array's largest magnitude (the arrays' own README).
VALUES, COLORS, LOSSES, GRADIENTS = 1e-4, 5e-4, 2e-4, 2e-3
ZERO_LOSS = 1e-8  # a loss below this is zero


def arrays(name: str, file: str = "arrays.npz") -> dict[str, torch.Tensor]:
    """Loads the arrays of one model as tensors."""
    with np.load(FOLDER / name / file) as archive:
        return {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}


def section(all_arrays: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Returns the arrays below a prefix, without it."""
    return {
        key[len(prefix) + 1 :]: value for key, value in all_arrays.items() if key.startswith(prefix + ".")
    }


def model(name: str, strategy: str = "published") -> IDRNetwork:
    """Builds a golden model with its trained weights."""
    overrides = (f"model.ray_tracer.strategy={strategy}",)
    network = IDRNetwork(load_conf(FOLDER / name / "model.conf", overrides)["model"])
    checkpoint = torch.load(FOLDER / name / "checkpoint.pth", weights_only=True)
    network.load_state_dict(checkpoint["model_state_dict"])
    return network


def difference(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """Returns the largest difference over the largest golden magnitude."""
    assert ours.shape == golden.shape, (ours.shape, golden.shape)
    if golden.numel() == 0:
        return 0.0
    scale = golden.abs().max().item()
    return (ours.detach() - golden).abs().max().item() / (scale if scale > 0 else 1.0)
