"""Loading a checkpoint's weights into a model, with a mismatch explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from idr.errors import InputError


def load_weights(model: nn.Module, weights: Any, where: str, remedy: str) -> None:
    """Loads weights whose names and shapes must be the model's.

    Args:
        model: The model that the conf describes.
        weights: The checkpoint's ``model_state_dict``.
        where: The checkpoint, for messages.
        remedy: What to do where it does not fit, for messages.

    Raises:
        InputError: Names or shapes differ, or it is no table of weights.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(
            f"{where} holds no model_state_dict of tensors: it is no checkpoint of this system; {remedy}"
        )
    wanted = model.state_dict()
    differences = [
        f"{name} is {list(weights[name].shape)} there, {list(value.shape)} in the conf's model"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    differences += [f"{name} is missing there" for name in wanted if name not in weights]
    differences += [f"{name} is not in the conf's model" for name in weights if name not in wanted]
    if differences:
        raise InputError(
            f"{where} is of another architecture than the conf describes: {differences[0]} "
            f"({len(differences)} differences); {remedy}"
        )
    model.load_state_dict(dict(weights))
