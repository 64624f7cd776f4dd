"""Builds the classes that a conf names: data set, model and loss, of this package or of the user.

The block of a class with a `config_class` is checked against that dataclass; any other class gets its block
as keyword arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pyhocon import ConfigTree

from idr.conf.blocks import plain_value
from idr.conf.files import read_block, resolve_class
from idr.errors import InputError

NO_SCAN = -1
LOSS_TERMS = ("components", "normals", "patch", "sparse_points")
"""Blocks within ``loss`` that the trainer adds to the loss, see `idr.training.terms`."""


@dataclass(frozen=True)
class Seam:
    """What the class of a conf's key must have, so that training can use it.

    Attributes:
        key: The key that names the class.
        block: The block of its arguments.
        methods: Its methods.
        attributes: Attributes of an instance.
        num_inputs: Number of arguments of its `forward` if it is a module of torch, else None.
    """

    key: str
    block: str
    methods: tuple[str, ...]
    attributes: tuple[str, ...]
    num_inputs: int | None = None

    def find_class(self, conf: ConfigTree) -> type:
        """Returns the class that a conf names, which has not been called.

        Raises:
            InputError: There is no such class, or it lacks a part.
        """
        cls = resolve_class(str(conf_value(conf, self.key)))
        missing = [method for method in self.methods if not callable(getattr(cls, method, None))]
        if missing:
            raise self._lacks(cls, missing)
        if self.num_inputs is not None:
            self._check_module(cls, self.num_inputs)
        return cls

    def build(self, cls: type, *positional: Any, **arguments: Any) -> Any:
        """Constructs an object of a class from `find_class`.

        Raises:
            InputError: The block's keys do not fit the constructor, or the object lacks an attribute.
        """
        try:
            inspect.signature(cls).bind(*positional, **arguments)
        except TypeError as error:
            raise InputError(
                f"{self.block}: the block's keys do not fit {_path_of(cls)}: {error}; correct the block or "
                "the class"
            ) from error
        built = cls(*positional, **arguments)
        missing = [attribute for attribute in self.attributes if not hasattr(built, attribute)]
        if missing:
            raise self._lacks(cls, missing)
        return built

    def _check_module(self, cls: type, num_inputs: int) -> None:
        import torch  # here, since commands read confs without waiting for it

        if not issubclass(cls, torch.nn.Module) or cls.forward is torch.nn.Module.forward:
            raise self._lacks(cls, ["forward of a torch.nn.Module"])
        try:
            inspect.signature(cls.forward).bind(*[None] * (1 + num_inputs))
        except TypeError as error:
            mistake = f"its `forward`: {error}"
            raise InputError(f"{self.key} = {_path_of(cls)}: {mistake}; {_DOCUMENTED}") from error

    def _lacks(self, cls: type, missing: list[str]) -> InputError:
        return InputError(f"{self.key} = {_path_of(cls)}: has no {', '.join(missing)}; {_DOCUMENTED}")


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"


_DOCUMENTED = "expected a class as docs/training.md describes it (Your own data set, model or loss)"
_DATASET = Seam(
    "train.dataset_class", "dataset", ("__len__", "__getitem__", "collate_fn", "change_sampling_idx"),
    ("total_pixels", "img_res"),
)  # fmt: skip
_MODEL = Seam("train.model_class", "model", (), ("implicit_network", "rendering_network"), num_inputs=1)
_LOSS = Seam("train.loss_class", "loss", (), ("alpha",), num_inputs=2)


def conf_value(conf: ConfigTree, key: str) -> Any:
    """Returns the value of a required key by its full name, for example ``train.expname``.

    Raises:
        InputError: The key is missing.
    """
    value = conf.get(key, None)
    if value is None:
        raise InputError(f"the conf has no {key}; add it (confs/dtu_fixed_cameras.conf shows all keys)")
    return value


def _block(conf: ConfigTree, name: str) -> Mapping[str, Any]:
    block = conf_value(conf, name)
    if not isinstance(block, Mapping):
        raise InputError(f"{name} = {block}: expected a block {{ ... }}")
    return block


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
    block = dict(_block(conf, "dataset"))
    extra = {"scan_id": scan_id, "data_root": data_root, "split": None if split == "train" else split}
    if scan_id is None and scan_id_of(conf) is None:
        block.pop("scan_id", None)
    block.update({key: value for key, value in extra.items() if value is not None})
    cls = _DATASET.find_class(conf)
    return _DATASET.build(cls, train_cameras, **block_arguments(cls, block, "dataset"))


def build_model(conf: ConfigTree) -> Any:
    """Returns the model that a conf names, with initial weights, on the CPU."""
    return _MODEL.build(_MODEL.find_class(conf), conf=_block(conf, "model"))


def build_loss(conf: ConfigTree) -> Any:
    """Returns the loss that a conf names."""
    cls = _LOSS.find_class(conf)
    block = {key: value for key, value in _block(conf, "loss").items() if key not in LOSS_TERMS}
    return _LOSS.build(cls, **block_arguments(cls, block, "loss"))
