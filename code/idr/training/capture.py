"""A training step of fixed shapes, which a device with graphs records once and then repeats.

A step of the published networks is some thousand small operators, and launching them one by one takes a fast
device longer than their arithmetic. A recorded step (a CUDA graph) is launched as one. It repeats the same
operators on the same memory. So shapes must not depend on what rays hit, the host must read nothing on the
way, and all that changes from step to step is in tensors: rays, draws, alpha, learning rates, and Adam's
counts of steps.

R rays.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from idr.errors import InputError
from idr.model.encodings.levels import NETWORKS, open_levels
from idr.model.implicit_differentiable_renderer import IDRNetwork, StepDraws, draw_step
from idr.training.config import TrainConfig
from idr.training.optimizers import clip_gradients, gradient_norm
from idr.training.progress import squared_error
from idr.training.rays.batches import Batch
from idr.training.terms.build import Term

log = logging.getLogger(__name__)

WARM_UP_STEPS = 3
"""Steps of the same shapes and open levels before one is recorded: libraries allocate memory in the first."""


def check_capture(
    config: TrainConfig, model: nn.Module, terms: Sequence[Term], trains_cameras: bool, num_processes: int
) -> None:
    """Refuses a training whose steps cannot be captured.

    Args:
        config: The block ``train``.
        model: The model.
        terms: Further terms of the loss.
        trains_cameras: Whether cameras are trained.
        num_processes: Number of processes that share the rays.

    Raises:
        InputError: ``capture = auto`` with what reads values on the way, or has shapes that depend on them.
    """
    if config.capture == "off":
        return
    fault = ""
    if not isinstance(model, IDRNetwork):
        fault = f"a model of class {type(model).__name__}; expected IDRNetwork or a subclass of it"
    elif not model.ray_tracer.fixed_shapes:
        strategy = model.tracer_config.strategy
        fault = (
            f"model.ray_tracer.strategy = {strategy}, whose shapes follow what rays hit; expected fixed; add "
            "--set model.ray_tracer.strategy=fixed"
        )
    elif trains_cameras:
        fault = "trained cameras, whose gradients are sparse; expected fixed cameras"
    elif terms:
        fault = f"the term {terms[0].name}; expected a loss without further terms"
    elif config.exposure.type != "fixed":
        fault = f"train.exposure.type = {config.exposure.type}; expected fixed"
    elif num_processes > 1:
        fault = f"{num_processes} processes that share the rays; expected one"
    if fault:
        raise InputError(f"train.capture = auto: got {fault}, or train.capture = off")


@dataclass(frozen=True)
class StepResult:
    """What a step computes, without gradients.

    Attributes:
        losses: Scalars, ``loss`` among them.
        error: (2,) `squared_error`.
        outputs: What the model returned for R rays.
        finite: Scalar bool, the loss and the norm of its gradient are finite.
    """

    losses: dict[str, Tensor]
    error: Tensor
    outputs: dict[str, Tensor]
    finite: Tensor


@dataclass
class _Recording:
    """A step for inputs of certain shapes: memory that it reads and writes, and its graph once it has one."""

    model_input: dict[str, Tensor]
    ground_truth: dict[str, Tensor]
    draws: StepDraws
    steps: int = 0
    result: StepResult | None = None
    graph: Any = None

    @classmethod
    def like(cls, batch: Batch, draws: StepDraws) -> _Recording:
        """Returns memory for a batch and its draws."""
        model_input, truth = ({key: x.clone() for key, x in part.items()} for part in _parts(batch))
        return cls(model_input, truth, StepDraws(draws.depths.clone(), draws.eikonal_points.clone()))

    def fill(self, batch: Batch, draws: StepDraws) -> None:
        """Copies a batch and its draws into the memory."""
        for own, part in zip((self.model_input, self.ground_truth), _parts(batch), strict=True):
            for key, tensor in own.items():
                tensor.copy_(part[key], non_blocking=True)
        self.draws.depths.copy_(draws.depths)
        self.draws.eikonal_points.copy_(draws.eikonal_points)


class CapturedStep:
    """A training step without reads by the host: recorded where the device has graphs, else run as it is.

    The optimizer skips a step whose loss or gradient is not finite: the weights survive until the host looks.

    Args:
        model: An `IDRNetwork` whose tracer has fixed shapes, see `check_capture`.
        loss: The seam of `IDRLoss`; its ``alpha`` may change between steps.
        optimizer: Fused, capturable Adam; its learning rates may change between steps.
        max_grad_norm: See `TrainConfig`.

    Attributes:
        last: Batch and result of the last step, or None.
    """

    def __init__(
        self, model: Any, loss: Any, optimizer: torch.optim.Optimizer, max_grad_norm: float | None
    ) -> None:
        self.model, self.loss, self.optimizer, self.max_grad_norm = model, loss, optimizer, max_grad_norm
        self.last: tuple[Batch, StepResult] | None = None
        like = next(model.parameters())
        self._device = like.device
        self._alpha = like.new_zeros(())
        # Fused Adam takes learning rates and `found_inf` in float32 alone.
        self._rates = [like.new_zeros((), dtype=torch.float32) for _ in optimizer.param_groups]
        self._recordings: dict[Hashable, _Recording] = {}
        self._levels: dict[str, float] = {}
        backend = getattr(torch, like.device.type, None)
        self._backend = backend if hasattr(backend, "CUDAGraph") else None
        self._stream: Any = None

    def __call__(self, batch: Batch) -> StepResult:
        """Trains one step with a batch on the device; the outputs it returns change with the next step.

        Raises:
            InputError: The device cannot record the step.
        """
        recording = self._recording_for(batch)
        self._alpha.fill_(float(self.loss.alpha))
        for rate, group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if self._backend is None:
            recording.result = self._compute(recording)
        elif recording.steps < WARM_UP_STEPS:  # on the stream on which it will be recorded
            with self._beside(self._backend):
                recording.result = self._compute(recording)
        else:
            if recording.graph is None:
                self._record(self._backend, recording)
            recording.graph.replay()
            increment_version(list(self.model.parameters()))  # see `make_optimizer`
        recording.steps += 1
        assert recording.result is not None
        losses = {name: value.clone() for name, value in recording.result.losses.items()}
        result = replace(recording.result, losses=losses, error=recording.result.error.clone())
        self.last = batch, result
        return result

    def _recording_for(self, batch: Batch) -> _Recording:
        """Returns the recording for the batch's shapes and the present levels, filled with the batch."""
        levels = open_levels(self.model, NETWORKS.values())
        if levels != self._levels:  # they are part of what is recorded
            self._levels, self._recordings = levels, {}
        num_rays = batch.model_input["uv"].shape[:-1].numel()
        draws = draw_step(num_rays, self.model.tracer_config, batch.model_input["pose"], None)
        key = tuple((name, x.shape, x.dtype) for part in _parts(batch) for name, x in part.items())
        if key not in self._recordings:
            self._recordings[key] = _Recording.like(batch, draws)
        self._recordings[key].fill(batch, draws)
        return self._recordings[key]

    def _compute(self, recording: _Recording) -> StepResult:
        """Performs a step on the recording's memory; nothing here may read a value or a size of the data."""
        optimizer = self.optimizer
        optimizer.zero_grad(set_to_none=True)
        with self._tensors_in_place():
            outputs = self.model({**recording.model_input, "draws": recording.draws})
            losses = self.loss(outputs, recording.ground_truth)
            losses["loss"].backward()
            norm = gradient_norm([self.model])
            finite = torch.isfinite(losses["loss"].detach() + norm)
            if self.max_grad_norm is not None:
                clip_gradients(self.model, (), self.max_grad_norm, norm)
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            optimizer.step()
        error = squared_error(outputs, recording.ground_truth["rgb"])
        return StepResult(_detached(losses), error, _detached(outputs), finite)

    @contextmanager
    def _tensors_in_place(self) -> Iterator[None]:
        """Puts tensors in the place of alpha and the learning rates, whose values a recording would keep."""
        groups = self.optimizer.param_groups
        alpha, rates = self.loss.alpha, [group["lr"] for group in groups]
        self.loss.alpha = self._alpha
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            self.loss.alpha = alpha
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    @contextmanager
    def _beside(self, backend: Any) -> Iterator[None]:
        """Works on the own stream, after the present one and before what follows on it."""
        present = backend.current_stream(self._device)
        if self._stream is None:
            self._stream = backend.Stream(self._device)
        self._stream.wait_stream(present)
        with backend.stream(self._stream):
            yield
        present.wait_stream(self._stream)

    def _record(self, backend: Any, recording: _Recording) -> None:
        """Records a step, which does not run it."""
        graph = backend.CUDAGraph()
        try:
            with backend.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                recording.result = self._compute(recording)
        except RuntimeError as error:
            cause = str(error).splitlines()[0]
            raise InputError(
                f"train.capture = auto: the device cannot record a step ({cause}); set train.capture = off "
                "and continue with --is_continue"
            ) from error
        recording.graph = graph
        num_rays = recording.model_input["object_mask"].numel()
        log.info("train.capture: the step of %d rays is recorded and will be repeated", num_rays)


def _parts(batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return batch.model_input, batch.ground_truth


def _detached(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: x.detach() for name, x in tensors.items() if isinstance(x, Tensor)}
