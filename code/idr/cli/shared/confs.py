"""Reads the conf that the flags name, and checks it before the first long step."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idr.errors import InputError

if TYPE_CHECKING:
    from pyhocon import ConfigTree


def read_conf(path: str | Path, overrides: Sequence[str]) -> ConfigTree:
    """Reads a conf with the values of ``--set``; see `load_conf` and `check_overrides`."""
    from idr.conf.files import load_conf

    conf = load_conf(path, overrides)
    check_overrides(conf, overrides)
    return conf


def check_overrides(conf: ConfigTree, overrides: Sequence[str]) -> None:
    """Refuses unknown keys of ``--set``, also in blocks that this command does not read.

    Unknown keys of the conf file are the business of the block's reader, which may only warn.

    Raises:
        InputError: The first such key.
    """
    if overrides:
        configs = _configs(conf)
        for override in overrides:
            block, *names = override.partition("=")[0].strip().split(".")
            _check_key(configs, configs.get(block), names, block)


def _check_key(configs: Mapping[str, type], config: Any, names: Sequence[str], where: str) -> None:
    """Checks the path of a key below the block `where`, whose dataclass may be None for unknown."""
    if config is None or not names:
        return
    from idr.conf.blocks import did_you_mean
    from idr.conf.build import LOSS_TERMS

    name, *rest = names
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    fields += LOSS_TERMS if where == "loss" else []
    former = getattr(config, "RENAMED_KEYS", {})
    if name not in {*fields, *former, *getattr(config, "REMOVED_KEYS", {})}:
        hint = did_you_mean(name, fields)
        raise InputError(f"--set {where}.{name}: unknown key{hint}; keys of `{where}`: {', '.join(fields)}")
    inner = f"{where}.{name}"
    hint_type = typing.get_type_hints(config).get(former.get(name, name))
    kinds = (configs.get(inner), hint_type, *typing.get_args(hint_type))
    _check_key(configs, next(filter(dataclasses.is_dataclass, kinds), None), rest, inner)


def check_conf(conf: ConfigTree) -> None:
    """Refuses a conf with which training could not start, whatever the scene.

    Raises:
        InputError: A key is unknown, missing or of a wrong type, or there is no such class.
    """
    from idr.conf.build import block_arguments, build_loss, build_model, conf_value
    from idr.conf.files import read_block, resolve_class
    from idr.pictures.plots import PlotConfig
    from idr.training.config import TrainConfig

    read_block(TrainConfig, conf_value(conf, "train"), "train", unknown="ignore")
    read_block(PlotConfig, conf.get("plot", {}), "plot")
    dataset = resolve_class(str(conf_value(conf, "train.dataset_class")))
    block_arguments(dataset, conf_value(conf, "dataset"), "dataset")
    build_model(conf)
    build_loss(conf)


def _configs(conf: ConfigTree) -> dict[str, type]:
    """Returns the dataclass of each block that this package reads; those of a user's class are left out."""
    from idr.conf.files import resolve_class
    from idr.model.encodings import ENCODINGS, VIEW_ENCODINGS
    from idr.model.implicit_differentiable_renderer import IDRNetwork, ModelConfig
    from idr.model.implicit_network import ImplicitNetworkConfig
    from idr.model.rendering_network import RenderingNetworkConfig
    from idr.model.tracing import TracerConfig
    from idr.pictures.plots import PlotConfig
    from idr.training.config import TrainConfig
    from idr.training.terms.components import ComponentsConfig
    from idr.training.terms.normals import NormalsConfig
    from idr.training.terms.patch import PatchConfig
    from idr.training.terms.sparse_points import SparsePointsConfig

    configs: dict[str, type] = {
        "train": TrainConfig, "plot": PlotConfig,
        "loss.components": ComponentsConfig, "loss.normals": NormalsConfig, "loss.patch": PatchConfig,
        "loss.sparse_points": SparsePointsConfig,
    }  # fmt: skip
    classes = {
        kind: resolve_class(str(name))
        for kind in ("dataset", "loss", "model")
        if (name := _value(conf, "train", f"{kind}_class")) is not None
    }
    for kind in ("dataset", "loss"):
        config = getattr(classes.get(kind), "config_class", None)
        if config is not None:
            configs[kind] = config
    if classes.get("model") is not IDRNetwork:
        return configs
    configs |= {
        "model": ModelConfig, "model.implicit_network": ImplicitNetworkConfig,
        "model.rendering_network": RenderingNetworkConfig, "model.ray_tracer": TracerConfig,
    }  # fmt: skip
    for network, name, encodings in (
        ("implicit_network", "encoding", ENCODINGS), ("rendering_network", "encoding", ENCODINGS),
        ("rendering_network", "encoding_view", VIEW_ENCODINGS),
    ):  # fmt: skip
        kind = _value(conf, "model", network, name, "type")
        if isinstance(kind, str) and kind in encodings:
            configs[f"model.{network}.{name}"] = encodings[kind][0]
    return configs


def _value(block: Any, *keys: str) -> Any:
    """Returns a value within nested blocks, or None without it or them."""
    for key in keys:
        block = block.get(key, None) if isinstance(block, Mapping) else None
    return block
