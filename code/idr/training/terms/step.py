"""What a term of the loss receives of a training step.

R rays of a step, B images of the scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idr.errors import InputError
from idr.geometry.cameras import pose_matrix
from idr.training.cameras.trained import TrainedCameras
from idr.training.rays.batches import Batch


@dataclass(frozen=True)
class Cameras:
    """The cameras of all images, as constants.

    Attributes:
        intrinsics: (B, 4, 4) K.
        poses: (B, 4, 4) camera-to-world, unit-sphere frame.
    """

    intrinsics: Tensor
    poses: Tensor


def all_cameras(dataset: Any, trained: TrainedCameras | None, device: torch.device) -> Cameras:
    """Returns the present cameras of all images, those of the data set where none are trained."""
    if trained is None:
        return Cameras(dataset.intrinsics.to(device), dataset.poses.to(device))
    with torch.no_grad():
        inputs = trained.inputs(torch.arange(len(dataset), device=device))
    intrinsics = inputs.get("intrinsics", dataset.intrinsics.to(device))
    return Cameras(intrinsics, pose_matrix(inputs["pose"]))


@dataclass(frozen=True)
class StepRays:
    """The rays of a step.

    Attributes:
        points: (R, 3) surface points, unit-sphere frame, differentiable where shaded.
        normals: (R, 3) gradients of f there.
        shaded: (R,) rays that hit inside the mask.
        image: (R,) index of each ray's image in the data set.
        pixels: (R, 2) column and row at full resolution.
        intrinsics: (R, 4, 4) of each ray's image; may carry a gradient.
        poses: (R, 4, 4) likewise.
        reduction: Factor by which the step's images are reduced.
    """

    points: Tensor
    normals: Tensor
    shaded: Tensor
    image: Tensor
    pixels: Tensor
    intrinsics: Tensor
    poses: Tensor
    reduction: int = 1

    def choose_shaded(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws the indices of up to `count` shaded rays, without replacement."""
        shaded = self.shaded.nonzero().squeeze(1)
        return shaded[torch.randperm(len(shaded), generator=generator)[:count].to(shaded.device)]

    @staticmethod
    def of(
        batch: Batch, model_input: Mapping[str, Any], outputs: Mapping[str, Any], reduction: int = 1
    ) -> StepRays:
        """Returns the rays of a batch, from what the model received, cameras included, and returned.

        Raises:
            InputError: It returned no surface points.
        """
        if "surface_points" not in outputs:
            raise InputError(
                "the model returns no surface_points, which the blocks within `loss` need; return them as "
                "IDRNetwork does, or leave the blocks out"
            )
        num_pixels = model_input["uv"].shape[1]
        points = outputs["surface_points"]
        per_ray = lambda values: values.repeat_interleave(num_pixels, dim=0)  # noqa: E731
        return StepRays(
            points=points,
            normals=outputs["grad_theta"][-points.shape[0] :],
            shaded=outputs["network_object_mask"] & outputs["object_mask"],
            image=per_ray(batch.indices),
            pixels=model_input["uv"].reshape(-1, 2),
            intrinsics=per_ray(model_input["intrinsics"]),
            poses=per_ray(pose_matrix(model_input["pose"])),
            reduction=reduction,
        )
