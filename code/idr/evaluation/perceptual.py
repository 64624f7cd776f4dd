"""LPIPS, a perceptual distance between images (Zhang et al., CVPR 2018).

H, W image height and width.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idr.errors import InputError, MissingInputError
from idr.evaluation.metrics import on_black

ImageDistance = Callable[[Tensor, Tensor, Tensor], float]
"""Distance of a rendering and a photograph, (H, W, 3) in [0, 1], under a mask (H, W)."""

MIN_SIDE = 32
"""Smallest image side, pixels; AlexNet's layers reduce a smaller image to nothing."""


class WeightsUnavailable(Exception):
    """The weights could not be loaded; the text gives the reason and a remedy."""


def require_lpips() -> Any:
    """Returns the package lpips; raises `MissingInputError` if it is not installed."""
    try:
        return importlib.import_module("lpips")
    except ImportError as error:
        raise MissingInputError("--lpips needs lpips: pip install 'idr-surface[lpips]'") from error


def load_lpips(device: torch.device) -> ImageDistance:
    """Loads LPIPS with AlexNet, version 0.1, as papers report it.

    The package ships the weights of its own layers; torchvision downloads AlexNet's once.

    Returns:
        The distance of two images on black; 0 for equal images, NaN below 32 pixels on a side.

    Raises:
        MissingInputError: The package is not installed.
        WeightsUnavailable: AlexNet's weights are not on this machine and cannot be downloaded.
    """
    lpips = require_lpips()
    try:
        # torchvision warns about how lpips calls it and prints its download.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", UserWarning)
            network = lpips.LPIPS(net="alex", version="0.1", verbose=False)
    except (OSError, RuntimeError) as error:  # no network (URLError is an OSError); a broken file
        raise WeightsUnavailable(
            f"the weights of AlexNet (torchvision) could not be loaded: {error}; run once with network, or "
            f"copy alexnet-owt-7be5be79.pth into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return network_distance(network.to(device).eval(), device)


def network_distance(network: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> ImageDistance:
    """Turns a network on (photograph, rendering), (1, 3, H, W) in [-1, 1], into a distance under a mask."""

    def prepared(image: Tensor, mask: Tensor) -> Tensor:
        signed = 2.0 * on_black(image, mask).float().clamp(0.0, 1.0) - 1.0
        return signed.permute(2, 0, 1)[None].to(device)  # (1, 3, H, W)

    def distance(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
        if rendered.shape != photo.shape or rendered.shape[:-1] != mask.shape or rendered.dim() != 3:
            raise InputError(
                f"rendered {tuple(rendered.shape)}, photo {tuple(photo.shape)}: expected (H, W, 3)"
            )
        if min(mask.shape) < MIN_SIDE:
            return float("nan")
        with torch.no_grad():
            return float(network(prepared(photo, mask), prepared(rendered, mask)))

    return distance
