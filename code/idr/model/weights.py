"""Loads a checkpoint's weights into a model, with an explanation when they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idr.checkpoints.schema import FLOATS, is_dense
from idr.errors import InputError


def load_weights(model: nn.Module, weights: Any, where: str, remedy: str) -> None:
    """Loads weights, whose names and shapes must be those of the model.

    Args:
        model: The model that the conf describes.
        weights: The checkpoint's ``model_state_dict``.
        where: The checkpoint's name, for messages.
        remedy: What to do about another architecture, for messages.

    Raises:
        InputError: Names or shapes differ, or a weight is not a dense tensor of finite floating-point
            numbers.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(
            f"{where} holds no model_state_dict of tensors (ModelParameters): it is no checkpoint of this "
            f"system; {remedy}"
        )
    own = model.state_dict()
    for name, value in weights.items():
        fault = _fault(value, own.get(name))
        if fault:
            raise InputError(
                f"{where}, ModelParameters.model_state_dict.{name}: got {fault}; expected a dense tensor of "
                "finite floating-point numbers; use another checkpoint, or get the file anew"
            )
    differences = [
        f"{name} is {list(weights[name].shape)} there, {list(value.shape)} in the conf's model"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    differences += [f"{name} is missing there" for name in own if name not in weights]
    differences += [f"{name} is not in the conf's model" for name in weights if name not in own]
    if differences:
        raise InputError(
            f"{where} is of another architecture than the conf describes (ModelParameters): {differences[0]} "
            f"({len(differences)} differences); {remedy}"
        )
    model.load_state_dict(dict(weights))


def _fault(value: Tensor, own: Tensor | None) -> str:
    """Returns why a weight cannot replace the model's own; an empty string if it can."""
    if not is_dense(value):
        return "a tensor that is sparse, quantized, nested, or without values"
    if own is not None and not own.is_floating_point():  # a user's own buffer
        return "" if value.dtype == own.dtype else f"values of {value.dtype}"
    if value.dtype not in FLOATS:
        return f"values of {value.dtype}"
    return "" if bool(torch.isfinite(value).all()) else "values that are not finite"
