"""Exposure and white balance of each photograph, learned with the surface.

B images of the scene, b images of a batch, P pixels of an image, R = b P rays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idr.checkpoints.manifests import EXPOSURE
from idr.checkpoints.parts import exposure_tables
from idr.errors import InputError
from idr.training.config import ExposureConfig
from idr.training.optimizers import OTHERS, load_optimizer, optimizer_state, set_learning_rates

log = logging.getLogger(__name__)


class Exposure(nn.Module):
    """A gain and an offset for each view and channel: a photograph shows exp(g) c + o of the scene's color c.

    The photographs alone do not determine the scene's own color: for a c + b in place of c, other g and o
    give the same photographs. Means of g and o over views of 0 choose one of these scenes, as some a and b
    reach them from any g and o. `step` restores these means after each step of the optimizer (projected
    gradient descent). So the stored values are those in use, and a step's gradient involves only its views.

    Every process sees all rays of a step, so the gradients are equal in all of them.

    Attributes:
        log_gain: (B, 3) g.
        offset: (B, 3) o, for colors in [0, 1].
        optimizer: Adam over both.
    """

    def __init__(self, num_images: int, config: ExposureConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.log_gain = nn.Parameter(torch.zeros(num_images, 3, device=device))
        self.offset = nn.Parameter(torch.zeros(num_images, 3, device=device))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate)

    def forward(self, indices: Tensor, outputs: Mapping[str, Any], photo: Tensor) -> dict[str, Any]:
        """Returns the model's outputs with the colors of shaded rays as the photographs show them.

        A saturated channel of a photograph only says that the color is as bright, or as dark, or more so.
        Where the color is beyond it, it becomes the photograph's.

        Args:
            indices: (b,) images of the batch.
            outputs: The model's, ``rgb_values`` (R, 3) in [-1, 1].
            photo: (b, P, 3) colors in [-1, 1].
        """
        shaded = outputs["network_object_mask"] & outputs["object_mask"]
        shape = (len(indices), -1, 3)
        # An excluded ray must not carry a NaN into the gradient of its view.
        rgb = torch.where(shaded.unsqueeze(1), outputs["rgb_values"], 1.0).view(shape)  # (b, P, 3)
        gain, offset = (table[indices].unsqueeze(1) for table in (self.log_gain.exp(), self.offset))
        seen = gain * (rgb + 1.0) + 2.0 * offset - 1.0
        beyond = ((photo >= 1.0) & (seen > 1.0)) | ((photo <= -1.0) & (seen < -1.0))
        seen = torch.where(beyond, photo, seen).view(-1, 3)
        return {**outputs, "rgb_values": torch.where(shaded.unsqueeze(1), seen, outputs["rgb_values"])}

    def add_penalty(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the losses with ``exposure_loss``, the mean over views of weight (|g|^2 + |o|^2)."""
        squares = self.log_gain.square() + self.offset.square()  # (B, 3)
        penalty = self.config.weight * squares.sum(dim=1).mean()
        return {**losses, "exposure_loss": penalty, "loss": losses["loss"] + penalty}

    def apply_rate(self, factor: float) -> None:
        """Sets the learning rate to that of the conf times the schedule's factor."""
        set_learning_rates(self.optimizer, {OTHERS: self.config.learning_rate * factor})

    def step(self) -> None:
        """Takes a step of the optimizer, restores the means over views, and clears the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for table in self.parameters():
                table.sub_(table.mean(dim=0))

    def state(self) -> dict[str, Any]:
        """Returns the part ``ExposureState`` of a checkpoint, without its epoch."""
        tables = {"log_gain": self.log_gain.detach(), "offset": self.offset.detach()}
        return {**tables, "optimizer": optimizer_state(self.optimizer)}

    def load_state(self, saved: Mapping[str, Any] | None, where: str) -> None:
        """Loads what `state` returned; for None the exposures start anew, with a warning.

        Raises:
            InputError: It does not fit, or belongs to another number of images; `where` names the checkpoint.
        """
        if saved is None:
            log.warning("%s holds no %s: the exposures start anew", where, EXPOSURE)
            return
        log_gain, offset = exposure_tables(saved, where)
        if len(log_gain) != len(self.log_gain):
            raise InputError(
                f"{where} holds exposures of {len(log_gain)} images ({EXPOSURE}.log_gain), the scene has "
                f"{len(self.log_gain)}; continue with the scene and dataset.holdout of the run"
            )
        load_optimizer(self.optimizer, saved, where, EXPOSURE, "optimizer")
        with torch.no_grad():
            self.log_gain.copy_(log_gain)
            self.offset.copy_(offset)
