"""Encodings of the networks' inputs, one file each: a conf's ``type`` is the name of the file.

A file with a point encoding defines ``ENCODING``, one with a view encoding ``VIEW_ENCODING``: the dataclass
of the block's keys and the encoding's class, which is constructed from it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from idr.conf.blocks import did_you_mean, read_block
from idr.errors import InputError
from idr.model.encodings.base import Encoding, ViewEncoding

__all__ = ["ENCODINGS", "VIEW_ENCODINGS", "Encoding", "ViewEncoding", "make_encoding", "make_view_encoding"]


def _offers(name: str) -> dict[str, Any]:
    """Returns the variables of this name in this folder's files, by file."""
    files = [file.name for file in pkgutil.iter_modules(__path__)]
    modules = {file: importlib.import_module(f"{__name__}.{file}") for file in files}
    return {file: getattr(module, name) for file, module in modules.items() if hasattr(module, name)}


ENCODINGS = _offers("ENCODING")
VIEW_ENCODINGS = _offers("VIEW_ENCODING")


def make_encoding(block: Mapping[str, Any], where: str) -> Encoding:
    """Makes the encoding of points that a block describes.

    Args:
        block: Its ``type`` is one of `ENCODINGS`.
        where: The block's full name, for messages.

    Raises:
        InputError: The type or a key is unknown, or a value has the wrong type or range.
    """
    return _make(block, ENCODINGS, where)


def make_view_encoding(block: Mapping[str, Any], where: str) -> ViewEncoding:
    """Makes the encoding of view directions that a block describes; see `make_encoding`."""
    return _make(block, VIEW_ENCODINGS, where)


def _make(block: Mapping[str, Any], offered: Mapping[str, Any], where: str) -> Any:
    name = str(block.get("type", "none given"))
    if name not in offered:
        raise InputError(
            f"{where}.type = {name}: expected one of {', '.join(offered)}{did_you_mean(name, offered)}"
        )
    config, make = offered[name]
    return make(read_block(config, block, where))
