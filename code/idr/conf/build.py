"""Builds what a conf names by class path: data set, model and loss, ours or a user's own.

A class that has a `config_class` gets its block checked against that dataclass; any other takes what its
constructor likes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pyhocon import ConfigTree

from idr.conf.blocks import plain_value
from idr.conf.files import read_block, resolve_class
from idr.errors import InputError

NO_SCAN = -1


def conf_value(conf: ConfigTree, key: str) -> Any:
    """Returns a value of a conf that must be there.

    Args:
        conf: The whole conf.
        key: Full name, for example ``train.expname``.

    Raises:
        InputError: The conf does not have it.
    """
    value = conf.get(key, None)
    if value is None:
        raise InputError(f"the conf has no {key}; add it (confs/dtu_fixed_cameras.conf shows all keys)")
    return value


def scan_id_of(conf: ConfigTree, given: int = NO_SCAN) -> int | None:
    """Returns the scan id: the one given on the command line, else the conf's, else None.

    Raises:
        InputError: The conf's is no number.
    """
    if given != NO_SCAN:
        return given
    found = conf.get("dataset.scan_id", None)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int):
        raise InputError(f"dataset.scan_id = {found!r}: expected a whole number such as 65")
    return None if found == NO_SCAN else found


def block_arguments(cls: type, block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the keyword arguments that a block gives to a class.

    Args:
        cls: The class.
        block: The block.
        where: Its name, for messages.

    Raises:
        InputError: A key that the class does not take, or a value of a wrong type.
    """
    config_class = getattr(cls, "config_class", None)
    if config_class is None:
        return dict(plain_value(block))
    values = read_block(config_class, block, where)
    return {field.name: getattr(values, field.name) for field in fields(values)}


def _call(cls: type, where: str, *positional: Any, **arguments: Any) -> Any:
    """Constructs an object, naming the block where its arguments do not fit the constructor."""
    try:
        inspect.signature(cls).bind(*positional, **arguments)
    except TypeError as error:
        raise InputError(
            f"{where}: the block's keys do not fit {cls.__module__}.{cls.__name__}: {error}; "
            "correct the block or the class"
        ) from error
    return cls(*positional, **arguments)


def build_dataset(
    conf: ConfigTree,
    train_cameras: bool,
    scan_id: int | None = None,
    data_root: str | None = None,
    split: str = "train",
) -> Any:
    """Opens the scene that a conf names.

    Args:
        conf: The whole conf; its ``train.dataset_class`` and ``dataset`` block are used.
        train_cameras: Leave the poses to the trainer.
        scan_id: Scene; None for the conf's or the class's default.
        data_root: Folder of all data sets; None for the default.
        split: ``train``, or ``holdout`` for the views that are never trained on.

    Returns:
        The data set.
    """
    block = dict(plain_value(conf_value(conf, "dataset")))
    extra = {"scan_id": scan_id, "data_root": data_root, "split": None if split == "train" else split}
    if scan_id is None and scan_id_of(conf) is None:
        block.pop("scan_id", None)
    block.update({key: value for key, value in extra.items() if value is not None})
    cls = resolve_class(str(conf_value(conf, "train.dataset_class")))
    return _call(cls, "dataset", train_cameras, **block_arguments(cls, block, "dataset"))


def build_model(conf: ConfigTree) -> Any:
    """Builds the model that a conf names, with its initial weights, on the CPU."""
    cls = resolve_class(str(conf_value(conf, "train.model_class")))
    return _call(cls, "model", conf=conf_value(conf, "model"))


def build_loss(conf: ConfigTree) -> Any:
    """Builds the loss that a conf names."""
    cls = resolve_class(str(conf_value(conf, "train.loss_class")))
    return _call(cls, "loss", **block_arguments(cls, conf_value(conf, "loss"), "loss"))
