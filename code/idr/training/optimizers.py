"""Adam over the model, the optimizers of cameras, and their states in checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from idr.checkpoints import schema
from idr.checkpoints.schema import Kind, check, misfit, optional, real, table, tensor, whole
from idr.errors import InputError
from idr.training.cameras.poses import LearnablePoses
from idr.training.cameras.row_adam import RowAdam
from idr.training.config import TrainConfig

log = logging.getLogger(__name__)

PREFIXES = {
    "encoding": "implicit_network.encoding.",
    "color_encoding": "rendering_network.encoding.",
    "implicit_network": "implicit_network.",
    "rendering_network": "rendering_network.",
}
"""Prefixes of the parameter names of each group; the first match counts."""
OTHERS = "others"
CLIP_EPS = 1e-6  # torch's, in clip_grad_norm_


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Makes Adam over a model, in one group as published, or in the groups of ``schedule.param_groups``.

    Those groups have a ``name``. Parameters keep the model's order, so that a saved state means the same
    parameters with and without groups. With groups Adam runs fused on a CPU, in one pass over the tables of
    encodings, which are most of the parameters. With ``capture`` it runs fused, without reads by the host.
    Fused steps do not count the parameters' versions, by which caches of f notice new weights: a hook does.
    """
    options: dict[str, Any] = {"fused": True, "capturable": True} if config.capture == "auto" else {}
    names = config.schedule.param_groups.named()
    if names:
        groups: list[dict[str, Any]] = []
        for name, parameter in model.named_parameters():
            key = next((g for g in names if name.startswith(PREFIXES[g])), OTHERS)
            if not groups or groups[-1]["name"] != key:
                groups.append({"params": [], "name": key, **_group_settings(key, config)})
            groups[-1]["params"].append(parameter)
        on_host = all(parameter.device.type == "cpu" for parameter in model.parameters())
        options = {"fused": on_host or None} | options
        optimizer = torch.optim.Adam(groups, lr=config.learning_rate, **options)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # the published scheduler continues from it
    optimizer.register_step_post_hook(lambda *_: increment_version(list(model.parameters())))
    return optimizer


def make_camera_optimizer(cameras: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Makes the optimizer of poses or of intrinsics, embeddings with sparse gradients."""
    full = isinstance(cameras, LearnablePoses) and config.cameras.preconditioner == "full"
    kind = RowAdam if full else torch.optim.SparseAdam
    rate = config.learning_rate_cam or 0.0
    return kind(list(cameras.parameters()), lr=rate, betas=config.cameras.betas)


def initial_rates(config: TrainConfig) -> dict[str, float]:
    """Returns Adam's learning rate at the start by parameter group; a model without groups has `OTHERS`."""
    return {name: _group_settings(name, config)["lr"] for name in (OTHERS, *PREFIXES)}


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """Sets the learning rate of each parameter group by its name, the only place that does."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group.get("name", OTHERS)]


def _group_settings(name: str, config: TrainConfig) -> dict[str, Any]:
    """Returns a group's initial learning rate and, if the conf names the group, Adam's constants."""
    block = config.schedule.param_groups.named().get(name)
    if block is None:
        return {"lr": config.learning_rate}
    return {"lr": config.learning_rate * block.factor, "betas": block.betas, "eps": block.eps}


def gradient_norm(modules: Sequence[nn.Module]) -> Tensor:
    """Returns the norm of all gradients of some modules, sparse ones included."""
    gradients = (p.grad for module in modules for p in module.parameters() if p.grad is not None)
    return get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])


def clip_gradients(model: nn.Module, cameras: Sequence[nn.Module], max_norm: float, norm: Tensor) -> None:
    """Clips the gradient of a step that is an outlier, without a read by the host.

    Where a ray grazes the surface, the derivative of its intersection (paper, Eq. 3) divides by almost zero.
    Adam would follow such a gradient for tens of steps and, as it remembers its square, hardly move for the
    next thousand.

    `norm` is that of all gradients of the model. Gradients of cameras, also sparse ones, are scaled by the
    same factor.
    """
    clip_grads_with_norm_(model.parameters(), max_norm, norm)
    factor = (max_norm / (norm + CLIP_EPS)).clamp(max=1.0)  # as torch scales the model's
    for module in cameras:
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns an optimizer's state with step counts as integers, as the published code's torch has them."""
    state = optimizer.state_dict()
    slots = {
        key: {name: int(value) if name == "step" else value for name, value in slot.items()}
        for key, slot in state["state"].items()
    }
    return {**state, "state": slots}


def load_optimizer(
    optimizer: torch.optim.Optimizer, content: Mapping[str, Any], where: str, part: str, key: str
) -> None:
    """Loads the moments of an optimizer, also of one with other parameter groups; its own groups stay.

    Constants such as betas are the conf's. The learning rates are the saved ones until a schedule sets them.
    `content`, the part of a checkpoint of that name, has in `key` what `optimizer_state` returned, or the
    published code's.

    Raises:
        InputError: It is not the state of such an optimizer, or that of other parameters.
    """
    check(content, {key: table({})}, where, part)
    saved, name = content[key], f"{part}.{key}"
    own = optimizer.state_dict()["param_groups"]
    check(saved, {"state": table({}), "param_groups": _GROUPS}, where, name)
    for number, group in enumerate(saved["param_groups"]):
        check(group, _group_schema(own[0]), where, f"{name}.param_groups.{number}")
    keys = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(keys) != len(parameters) or len(set(keys)) != len(keys):
        raise InputError(
            f"{where}, {name}.param_groups: got {len(keys)} parameters; expected {len(parameters)}; use the "
            "conf that the checkpoint was trained with"
        )
    slots = {}
    for parameter, slot in saved["state"].items():
        if parameter not in keys:
            raise misfit(where, f"{name}.state", parameter, "parameters of param_groups as keys")
        number = keys.index(parameter)
        check(slot, _slot_schema(optimizer, parameters[number]), where, f"{name}.state.{parameter}")
        slots[number] = slot
    if _form(own) == _form(saved["param_groups"]):
        rates = [group["lr"] for group in saved["param_groups"]]
        own = [{**group, "lr": rate} for group, rate in zip(own, rates, strict=True)]
    else:
        log.warning("%s: Adam's parameter groups are now those of train.schedule.param_groups", where)
    optimizer.load_state_dict({"state": slots, "param_groups": own})


def _form(groups: list[dict[str, Any]]) -> list[tuple[str, int]]:
    # Names of earlier versions count as the present ones.
    return [(str(group.get("name")).replace("colour", "color"), len(group["params"])) for group in groups]


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(real(0, 1).fits, value))


def _is_steps(value: Any) -> bool:
    return whole().fits(value.item() if schema.is_dense(value) and value.dim() == 0 else value)


_GROUPS = Kind("a list of parameter groups", lambda value: isinstance(value, list) and bool(value))
_PARAMS = Kind(
    "a list of whole numbers", lambda value: isinstance(value, list) and all(map(whole().fits, value))
)
_KINDS = {
    tuple: Kind("two numbers from 0 to 1", _is_pair),
    bool: schema.flag(), type(None): schema.flag(), str: schema.text(), int: real(0), float: real(0),
}  # fmt: skip
"""Kinds of the constants of a parameter group, by the type of the own ones."""


def _group_schema(own: Mapping[str, Any]) -> dict[str, Kind]:
    constants = {key: type(value) for key, value in own.items() if key != "lr" and type(value) in _KINDS}
    return {"params": _PARAMS, "lr": real(0)} | {key: optional(_KINDS[t]) for key, t in constants.items()}


def _slot_schema(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Kind]:
    shape = tuple(parameter.shape)
    if isinstance(optimizer, RowAdam):
        moments = tensor(*shape, shape[1])
        return {"counts": tensor(shape[0], least=0), "mean": tensor(*shape), "moments": moments}
    steps = Kind("a whole number, 0 or more", _is_steps)
    return {"step": steps, "exp_avg": tensor(*shape), "exp_avg_sq": tensor(*shape, least=0)}
