"""Training steps on one view of a sphere, for benchmarks that need no scene."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from shared import count_evaluations

from idr.conf.files import load_conf
from idr.model.implicit_differentiable_renderer import IDRNetwork
from idr.model.loss import IDRLoss


def view_of_sphere(num_rays: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Rays of one camera towards the unit sphere; about a third hit the initial surface."""
    generator = torch.Generator().manual_seed(0)
    pose = torch.eye(4)
    pose[2, 3] = -2.8
    intrinsics = torch.eye(4)
    intrinsics[0, 0] = intrinsics[1, 1] = 300.0
    intrinsics[:2, 2] = 128.0
    uv = 256 * torch.rand(1, num_rays, 2, generator=generator)
    mask = (uv - 128).norm(dim=2) < 70
    sample = {"uv": uv, "intrinsics": intrinsics[None], "pose": pose[None], "object_mask": mask}
    return {key: value.to(device) for key, value in sample.items()}


class TrainingSteps:
    """Training steps on one view.

    Args:
        strategy: Tracer strategy.
        conf: The conf.
        overrides: Its overrides, as ``key=value``.
        num_rays: R.
        device: Device.

    Attributes:
        evaluations: Points at which f was evaluated without gradient, since the counter was reset.
    """

    def __init__(
        self, strategy: str, conf: str | Path, overrides: Sequence[str], num_rays: int, device: torch.device
    ) -> None:
        tree = load_conf(conf, [f"model.ray_tracer.strategy={strategy}", *overrides])
        torch.manual_seed(0)
        self.device, self.model = device, IDRNetwork(tree["model"]).to(device).train()
        self.loss = IDRLoss(**tree["loss"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.sample = view_of_sphere(num_rays, device)
        self.truth = {"rgb": torch.zeros(1, num_rays, 3, device=device)}
        self.evaluations = 0
        count_evaluations(self.model.implicit_network, self._count)

    def _count(self, num_points: int) -> None:
        self.evaluations += num_points * (not torch.is_grad_enabled())

    def backward(self) -> None:
        """Evaluates the loss and its gradients."""
        losses = self.loss(self.model(self.sample), self.truth)
        self.optimizer.zero_grad()
        losses["loss"].backward()

    def step(self) -> None:
        """Performs one training step."""
        self.backward()
        self.optimizer.step()

    def timed(self, count: int) -> list[float]:
        """Wall time in seconds of each of `count` steps."""
        times = []
        for _ in range(count):
            started = time.perf_counter()
            self.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - started)
        return times

    def seconds(self, count: int) -> float:
        """Median wall time in seconds of `count` steps, after three warm-up steps."""
        return statistics.median(self.timed(count + 3)[3:])
