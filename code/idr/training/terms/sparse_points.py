"""The block ``loss.sparse_points``: f is zero at points that were triangulated from the photographs.

N points of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from idr.conf.blocks import check_positive
from idr.datasets.points import POINTS_FILE, read_points
from idr.errors import InputError
from idr.training.terms.step import Cameras, StepRays


@dataclass(frozen=True)
class SparsePointsConfig:
    """Keys of the block ``loss.sparse_points``.

    Attributes:
        weight: Weight of the term at the start.
        until: Time of the schedule, 0 to 1, until which the weight falls linearly to 0: photographs tell more
            of the surface than sparse points, of which some are wrong.
        points: Points of a step.
        scale: Distance, in unit-sphere units, beyond which a point's pull falls.
        file: Name of the file in the scene's folder.
    """

    LARGEST: ClassVar[dict[str, int]] = {"points": 10_000_000}

    weight: float
    until: float = 0.7
    points: int = 256
    scale: float = 0.01
    file: str = POINTS_FILE

    def __post_init__(self) -> None:
        check_positive(self, ("weight", "until", "points", "scale"), "loss.sparse_points")
        if self.until > 1:
            raise InputError(
                f"loss.sparse_points.until = {self.until}: expected a fraction of the schedule, up to 1"
            )


class SparsePointsTerm:
    """The mean of scale log(1 + |f| / scale) at known points of the surface (Fu et al. 2022, section 3.2).

    Differs: Geo-NeuS takes |f|; the logarithm bounds the pull of wrong points.

    Args:
        config: The block.
        dataset: The seam of `SceneDataset`, with ``instance_dir`` and ``get_scale_mat``.
        model: The seam of `IDRNetwork`, with ``implicit_network.sdf``.
    """

    name = "points_loss"

    def __init__(self, config: SparsePointsConfig, dataset: Any, model: Any) -> None:
        self.config, self.model = config, model
        found = read_points(Path(dataset.instance_dir) / config.file)
        unit_from_world = np.linalg.inv(np.asarray(dataset.get_scale_mat(), np.float64))
        points = found.points[~found.held_out] @ unit_from_world[:3, :3].T + unit_from_world[:3, 3]
        inside = np.linalg.norm(points, axis=1) < 1
        if not inside.any():
            raise InputError(
                f"{config.file}: no point lies inside the unit sphere; expected points_world in the frame of "
                "cameras.npz"
            )
        self.points = torch.from_numpy(points[inside]).float()

    def __call__(self, rays: StepRays, cameras: Cameras, time: float, generator: torch.Generator) -> Tensor:
        """Returns the weighted loss of a step, see `idr.training.terms.build.Term`."""
        weight = self.config.weight * (1 - time / self.config.until)
        if weight <= 0:
            return rays.points.new_zeros(())
        drawn = torch.randint(len(self.points), (self.config.points,), generator=generator)
        distance = self.model.implicit_network.sdf(self.points[drawn].to(rays.points)).abs()
        return weight * self.config.scale * torch.log1p(distance / self.config.scale).mean()
