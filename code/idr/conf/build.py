"""Builds the classes that a conf names: data set, model and loss, of this package or of the user.

The block of a class with a `config_class` is checked against that dataclass; any other class gets its block
as keyword arguments.
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
LOSS_TERMS = ("normals", "patch", "sparse_points")
"""Blocks within ``loss`` that the trainer adds to the loss, see `idr.training.terms`."""


def conf_value(conf: ConfigTree, key: str) -> Any:
    """Returns the value of a required key by its full name, for example ``train.expname``.

    Raises:
        InputError: The key is missing.
    """
    value = conf.get(key, None)
    if value is None:
        raise InputError(f"the conf has no {key}; add it (confs/dtu_fixed_cameras.conf shows all keys)")
    return value


def scan_id_of(conf: ConfigTree, scan_id: int = NO_SCAN) -> int | None:
    """Returns the scene number of ``--scan_id``, else that of the conf, else None.

    Raises:
        InputError: ``dataset.scan_id`` is not a whole number.
    """
    if scan_id != NO_SCAN:
        return scan_id
    found = conf.get("dataset.scan_id", None)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int):
        raise InputError(f"dataset.scan_id = {found!r}: expected a whole number such as 65")
    return None if found == NO_SCAN else found


def block_arguments(cls: type, block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the keyword arguments of a class from its block, whose full name is for messages.

    Raises:
        InputError: A key that the class does not have, or a value of a wrong type.
    """
    config_class = getattr(cls, "config_class", None)
    if config_class is None:
        return dict(plain_value(block))
    values = read_block(config_class, block, where)
    return {field.name: getattr(values, field.name) for field in fields(values)}


def _call(cls: type, where: str, *positional: Any, **arguments: Any) -> Any:
    """Constructs an object; an `InputError` names the block if its keys do not fit the constructor."""
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
    """Returns the data set of ``train.dataset_class`` and the block ``dataset``.

    Args:
        conf: The whole conf.
        train_cameras: Whether the trainer owns the poses.
        scan_id: Scene number; None for the default of the conf or the class.
        data_root: Folder of all data sets; None for the default.
        split: ``train``, or ``holdout`` for the held-out views.
    """
    block = dict(plain_value(conf_value(conf, "dataset")))
    extra = {"scan_id": scan_id, "data_root": data_root, "split": None if split == "train" else split}
    if scan_id is None and scan_id_of(conf) is None:
        block.pop("scan_id", None)
    block.update({key: value for key, value in extra.items() if value is not None})
    cls = resolve_class(str(conf_value(conf, "train.dataset_class")))
    return _call(cls, "dataset", train_cameras, **block_arguments(cls, block, "dataset"))


def build_model(conf: ConfigTree) -> Any:
    """Returns the model that a conf names, with initial weights, on the CPU."""
    cls = resolve_class(str(conf_value(conf, "train.model_class")))
    return _call(cls, "model", conf=conf_value(conf, "model"))


def build_loss(conf: ConfigTree) -> Any:
    """Returns the loss that a conf names."""
    cls = resolve_class(str(conf_value(conf, "train.loss_class")))
    block = {key: value for key, value in conf_value(conf, "loss").items() if key not in LOSS_TERMS}
    return _call(cls, "loss", **block_arguments(cls, block, "loss"))
