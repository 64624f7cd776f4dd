"""The three losses (paper, sections 3.3 and 3.4).

R rays, E points of the Eikonal term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from idr.errors import InputError


@dataclass(frozen=True)
class LossConfig:
    """Keys of the block ``loss``.

    Attributes:
        eikonal_weight: Weight of the Eikonal term.
        mask_weight: Weight of the mask term.
        alpha: Initial sharpness of the mask term's sigmoid.
    """

    eikonal_weight: float
    mask_weight: float
    alpha: float

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise InputError(f"loss.alpha = {self.alpha}: expected a sharpness above 0")


class IDRLoss(nn.Module):
    """RGB + eikonal_weight Eikonal + mask_weight mask loss.

    The arguments, see `LossConfig`, become plain attributes, read at each call; the training schedule raises
    `alpha`.
    """

    config_class = LossConfig
    takes_weights = True

    def __init__(self, eikonal_weight: float, mask_weight: float, alpha: float) -> None:
        super().__init__()
        self.eikonal_weight = eikonal_weight
        self.mask_weight = mask_weight
        self.alpha = alpha

    def rgb_loss(
        self, rgb_values: Tensor, rgb: Tensor, shaded: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the L1 color error, summed over shaded rays and divided by all R (section 3.4).

        Args:
            rgb_values: (R, 3) rendered colors in [-1, 1].
            rgb: (R, 3) colors of the photographs in [-1, 1].
            shaded: (R,) rays that hit the surface and lie in the mask.
            weights: (R,) weights of the rays, or None.

        Returns:
            The scalar loss.
        """
        difference = (rgb_values - rgb).abs().sum(dim=1)
        if weights is not None:
            difference = difference * weights
        # where, not a product: a NaN of an excluded ray must not spread.
        return torch.where(shaded, difference, torch.zeros_like(difference)).sum() / shaded.shape[0]

    def mask_loss(
        self, sdf_output: Tensor, shaded: Tensor, object_mask: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Returns the cross-entropy of the soft mask over rays that are not shaded (sections 3.3, 3.4).

        The sum is divided by alpha and by the number of all rays R.

        Args:
            sdf_output: (R, 1) signed distance at the rays' points.
            shaded: (R,) rays of the RGB term.
            object_mask: (R,) input masks.
            weights: (R,) weights of the rays, or None.

        Returns:
            The scalar loss.
        """
        logits = -self.alpha * sdf_output.squeeze(-1)
        inside = object_mask.to(logits.dtype)
        entropy = functional.binary_cross_entropy_with_logits(logits, inside, reduction="none")
        if weights is not None:
            entropy = entropy * weights
        return torch.where(shaded, torch.zeros_like(entropy), entropy).sum() / self.alpha / shaded.shape[0]

    def eikonal_loss(self, grad_theta: Tensor | None, like: Tensor) -> Tensor:
        """Returns the mean squared deviation of the gradient's norm from one (section 3.4).

        Args:
            grad_theta: (E, 3) gradients; the loss is zero without any.
            like: A tensor with the device and dtype to use.
        """
        if grad_theta is None or grad_theta.shape[0] == 0:
            return like.new_zeros(())
        return ((grad_theta.norm(2, dim=1) - 1) ** 2).mean()

    def forward(self, outputs: Mapping[str, Tensor], ground_truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Evaluates all terms.

        Args:
            outputs: The result of `IDRNetwork.forward`.
            ground_truth: ``rgb`` (B, P, 3) in [-1, 1]; optionally ``weights`` (B, P) of the rays in the RGB
                and mask losses.

        Returns:
            Scalars ``loss``, ``rgb_loss``, ``eikonal_loss``, ``mask_loss``.
        """
        shaded = outputs["network_object_mask"] & outputs["object_mask"]
        rgb = ground_truth["rgb"].reshape(-1, 3)
        # Passed only if present, so that subclasses whose terms lack the argument still work.
        weights = (ground_truth["weights"].reshape(-1),) if "weights" in ground_truth else ()
        rgb_loss = self.rgb_loss(outputs["rgb_values"], rgb, shaded, *weights)
        mask_loss = self.mask_loss(outputs["sdf_output"], shaded, outputs["object_mask"], *weights)
        eikonal_loss = self.eikonal_loss(outputs["grad_theta"], like=outputs["sdf_output"])
        return {
            "loss": rgb_loss + self.eikonal_weight * eikonal_loss + self.mask_weight * mask_loss,
            "rgb_loss": rgb_loss,
            "eikonal_loss": eikonal_loss,
            "mask_loss": mask_loss,
        }
