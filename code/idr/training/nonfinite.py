"""The end of a training whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from idr.checkpoints.format import write_content
from idr.errors import OutputError, TrainingStoppedError
from idr.files import write_atomic
from idr.training.rays.batches import Batch
from idr.training.state import TrainingState


def stop_training(
    state: TrainingState, losses: Mapping[str, Tensor], batch: Batch, dataset: Any, run: Path, saves: bool
) -> NoReturn:
    """Saves the state before a step for inspection and ends training.

    Args:
        state: The state before the step.
        losses: The step's losses.
        batch: Its rays.
        dataset: The images, whose ``indices`` are the numbers of the views.
        run: The run's folder.
        saves: Whether this process writes files.

    Raises:
        TrainingStoppedError: Always.
    """
    terms = [name for name, value in losses.items() if not torch.isfinite(value)] or ["the gradient"]
    numbers = getattr(dataset, "indices", range(len(dataset)))
    views = ", ".join(str(numbers[i]) for i in batch.indices.tolist())
    path = run / f"nonfinite_{state.epoch}_{state.step}.pth"
    content = {**state.to_parts(), "batch": vars(batch), "losses": dict(losses)}
    try:
        if saves:
            write_atomic(path, lambda file: write_content(file, content))
        kept = f"the weights before the step are in {path}"
    except OutputError as error:  # the message is about training, which had to stop
        kept = f"the weights before the step are lost ({error})"
    raise TrainingStoppedError(
        f"epoch {state.epoch}, step {state.step}: {', '.join(terms)} not finite in view {views}; {kept}, "
        "the last checkpoint is unharmed; lower train.learning_rate and continue with --is_continue"
    )
