"""Loading a checkpoint's weights into a model, with an explanation when they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idr.errors import InputError


def load_weights(model: nn.Module, weights: Any, where: str, remedy: str) -> None:
    """Loads weights, whose names and shapes must be those of the model.

    Args:
        model: The model that the conf describes.
        weights: The checkpoint's ``model_state_dict``.
        where: The checkpoint, for messages.
        remedy: What to do if it does not fit, for messages.

    Raises:
        InputError: Names or shapes differ, or the weights are not a dictionary of tensors.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(
            f"{where} holds no model_state_dict of tensors: it is no checkpoint of this system; {remedy}"
        )
    expected = model.state_dict()
    differences = [
        f"{name} is {list(weights[name].shape)} there, {list(value.shape)} in the conf's model"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    differences += [
        f"{name} is {weights[name].dtype} there, in a form that this model cannot load"
        for name, value in expected.items()
        if name in weights and not _is_loadable(weights[name], value)
    ]
    differences += [f"{name} is missing there" for name in expected if name not in weights]
    differences += [f"{name} is not in the conf's model" for name in weights if name not in expected]
    if differences:
        raise InputError(
            f"{where} is of another architecture than the conf describes: {differences[0]} "
            f"({len(differences)} differences); {remedy}"
        )
    model.load_state_dict(dict(weights))


def _is_loadable(saved: Tensor, expected: Tensor) -> bool:
    """Whether a tensor holds plain numbers of the expected kind."""
    is_plain = saved.layout == torch.strided and not saved.is_quantized and not saved.is_meta
    return is_plain and saved.is_floating_point() == expected.is_floating_point() and not saved.is_complex()
