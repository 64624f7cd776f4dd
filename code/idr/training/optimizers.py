"""Adam over the model's parts; states of optimisers and schedules, to and from checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from idr.errors import InputError

if TYPE_CHECKING:
    from idr.training.config import TrainConfig

log = logging.getLogger(__name__)

PREFIXES = {
    "encoding": "implicit_network.encoding.",
    "colour_encoding": "rendering_network.encoding.",
    "implicit_network": "implicit_network.",
    "rendering_network": "rendering_network.",
}
"""Beginnings of the names of each part's parameters; the first that fits counts."""
OTHERS = "others"


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Makes Adam over a model, in one group as published, or in one for each part that the conf treats apart.

    Args:
        model: Its parameters.
        config: Gives the step size, and ``schedule.parts``.

    Returns:
        The optimiser. Groups of parts have a ``name``; their parameters follow one another as in the model,
        so that a saved state means the same parameters with and without groups.
    """
    parts = config.schedule.parts.given()
    if not parts:
        return torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    groups: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        part = next((p for p in parts if name.startswith(PREFIXES[p])), OTHERS)
        if not groups or groups[-1]["name"] != part:
            groups.append({"params": [], "name": part, **settings_of(part, config)})
        groups[-1]["params"].append(parameter)
    return torch.optim.Adam(groups, lr=config.learning_rate)


def settings_of(part: str | None, config: TrainConfig) -> dict[str, Any]:
    """Returns what the conf says of a group: its step size at the start and, of a part, Adam's constants."""
    block = config.schedule.parts.given().get(part or OTHERS)
    if block is None:
        return {"lr": config.learning_rate}
    return {"lr": config.learning_rate * block.factor, "betas": block.betas, "eps": block.eps}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], where: str) -> None:
    """Loads the state of an optimiser over the model, also of one whose parameters were grouped otherwise.

    Args:
        optimizer: Its groups stay as they are.
        state: What was saved; parameters are told by their place.
        where: The checkpoint's name, for messages.

    Raises:
        InputError: It is that of other parameters.
    """
    own, saved = optimizer.state_dict()["param_groups"], state.get("param_groups", [])
    if _form(own) != _form(saved):
        keys = [key for group in saved for key in group["params"]]
        if len(keys) == sum(len(group["params"]) for group in own):
            log.warning("%s: Adam's parts are now those of the conf's train.schedule.parts", where)
            state = {
                "state": {keys.index(key): slot for key, slot in state["state"].items()},
                "param_groups": own,
            }
    load_into(optimizer, state, where)


def _form(groups: list[dict[str, Any]]) -> list[tuple[str | None, int]]:
    """Names and sizes of groups of parameters."""
    return [(group.get("name"), len(group["params"])) for group in groups]


def load_into(target: Any, state: Mapping[str, Any], where: str) -> None:
    """Loads an optimiser's or a schedule's state."""
    try:
        target.load_state_dict(dict(state))
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{where}: the saved state of {type(target).__name__} does not fit ({error}); "
            "use the conf that the checkpoint was trained with"
        ) from error


def with_plain_steps(state: dict[str, Any]) -> dict[str, Any]:
    """Returns an optimiser's state with step counts as integers, as the published code's torch keeps them."""
    slots = {
        key: {name: int(value) if name == "step" else value for name, value in slot.items()}
        for key, slot in state["state"].items()
    }
    return {**state, "state": slots}
