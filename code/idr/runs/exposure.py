"""Exposures of photographs: what a run learned of its training views, and a fit for other views.

B training views, H, W image height and width, N pixels that are fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.checkpoints.parts import exposure_tables
from idr.rendering import RenderedImage


@dataclass(frozen=True)
class ViewExposure:
    """A photograph shows gain c + offset of the scene's color c in [0, 1]; both are (3,), on the CPU."""

    gain: Tensor
    offset: Tensor

    def apply(self, rgb: Tensor, coverage: Tensor) -> Tensor:
        """Returns a rendering as the photograph shows it, clipped to [0, 1]; what misses stays white.

        Args:
            rgb: (H, W, 3) colors in [0, 1], white where rays miss.
            coverage: (H, W) share of each pixel's rays that hit, or whether its ray hits.
        """
        hit = coverage.to(rgb)[..., None]
        color = self.gain * (rgb - (1 - hit)) + self.offset * hit
        return (color.clamp(min=0.0) + (1 - hit)).clamp(max=1.0).to(rgb)


def read_exposures(part: Mapping[str, Any], where: str) -> list[ViewExposure] | None:
    """Returns the exposures of the B training views from ``ExposureState``, or None if it has none."""
    if not part:
        return None
    log_gain, offset = (table.detach().float().cpu() for table in exposure_tables(part, where))
    return [ViewExposure(*both) for both in zip(log_gain.exp(), offset, strict=True)]


def fit_exposure(image: RenderedImage, photo: Tensor, mask: Tensor) -> ViewExposure:
    """Fits gain and offset of each channel by least squares over the mask's pixels that the rendering hits.

    The photograph is (H, W, 3) in [0, 1], the mask (H, W) bool.

    The minimum in closed form: gain = cov(rendering, photograph) / var(rendering), and the offset maps the
    mean to the mean. A channel of one color in the rendering has gain 1.
    """
    fitted = image.hit & mask
    if not bool(fitted.any()):
        return ViewExposure(torch.ones(3), torch.zeros(3))
    rendered, shown = image.rgb01[fitted].double(), photo[fitted].double()  # (N, 3)
    means = rendered.mean(dim=0), shown.mean(dim=0)
    covariance = ((rendered - means[0]) * (shown - means[1])).mean(dim=0)  # (3,)
    variance = (rendered - means[0]).square().mean(dim=0)
    gain = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), 1.0)
    return ViewExposure(gain, means[1] - gain * means[0])
