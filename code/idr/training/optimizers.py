"""Adam over the model's parts; states of optimizers and schedules, to and from checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from idr.errors import InputError
from idr.training.cameras.poses import LearnablePoses
from idr.training.cameras.row_adam import RowAdam

if TYPE_CHECKING:
    from idr.training.config import TrainConfig

log = logging.getLogger(__name__)

PREFIXES = {
    "encoding": "implicit_network.encoding.",
    "color_encoding": "rendering_network.encoding.",
    "implicit_network": "implicit_network.",
    "rendering_network": "rendering_network.",
}
"""Beginnings of the names of each part's parameters; the first that fits counts."""
OTHERS = "others"
CLIP_EPS = 1e-6  # torch's, in clip_grad_norm_


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Makes Adam over a model, in one group as published, or in one for each part that the conf treats apart.

    Args:
        model: Its parameters.
        config: Gives the step size, and ``schedule.parts``.

    Returns:
        The optimizer. Groups of parts have a ``name``; their parameters follow one another as in the model,
        so that a saved state means the same parameters with and without groups. With parts it runs fused on
        a CPU: one pass over the tables of encodings, which are most of the parameters.
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
    on_host = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return torch.optim.Adam(groups, lr=config.learning_rate, fused=on_host or None)


def make_camera_optimizer(cameras: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Makes the optimizer of poses or of intrinsics; its step size is set step by step.

    Args:
        cameras: Tables with sparse gradients.
        config: Gives ``cameras``.
    """
    by_matrix = isinstance(cameras, LearnablePoses) and config.cameras.moments == "matrix"
    kind = RowAdam if by_matrix else torch.optim.SparseAdam
    rate = config.learning_rate_cam or 0.0
    return kind(list(cameras.parameters()), lr=rate, betas=config.cameras.betas)


def settings_of(part: str | None, config: TrainConfig) -> dict[str, Any]:
    """Returns what the conf says of a group: its step size at the start and, of a part, Adam's constants."""
    block = config.schedule.parts.given().get(part or OTHERS)
    if block is None:
        return {"lr": config.learning_rate}
    return {"lr": config.learning_rate * block.factor, "betas": block.betas, "eps": block.eps}


def shorten_gradients(model: nn.Module, cameras: Sequence[nn.Module], longest: float) -> None:
    """Shortens the gradient of a step that is an outlier; nothing is read by the host.

    Where a ray grazes the surface, the derivative of its intersection (paper, Eq. 3) divides by almost
    nothing. Adam would follow one such gradient for tens of steps, and then hardly move for a thousand, as
    it remembers its square.

    Args:
        model: Its gradients' common norm counts.
        cameras: Their gradients, sparse ones too, are scaled by the same factor.
        longest: The norm.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), longest)
    factor = (longest / (norm + CLIP_EPS)).clamp(max=1.0)  # as torch scales the model's
    for table in cameras:
        for parameter in table.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], where: str) -> None:
    """Loads the state of an optimizer over the model, also of one whose parameters were grouped otherwise.

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
    """Loads an optimizer's or a schedule's state."""
    try:
        target.load_state_dict(dict(state))
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{where}: the saved state of {type(target).__name__} does not fit ({error}); "
            "use the conf that the checkpoint was trained with"
        ) from error


def with_plain_steps(state: dict[str, Any]) -> dict[str, Any]:
    """Returns an optimizer's state with step counts as integers, as the published code's torch keeps them."""
    slots = {
        key: {name: int(value) if name == "step" else value for name, value in slot.items()}
        for key, slot in state["state"].items()
    }
    return {**state, "state": slots}
