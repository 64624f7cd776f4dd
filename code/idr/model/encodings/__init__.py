"""Encodings of what goes into the networks: one file each, named by a conf's ``type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from idr.conf.blocks import did_you_mean, read_block
from idr.errors import InputError
from idr.model.encodings.base import Encoding
from idr.model.encodings.hashgrid import HashGrid, HashGridConfig
from idr.model.encodings.levels import find_encoding
from idr.model.encodings.sinusoids import Sinusoids, SinusoidsConfig
from idr.model.encodings.spherical_harmonics import SphericalHarmonicsConfig

__all__ = [
    "ENCODINGS",
    "Encoding",
    "find_encoding",
    "make_encoding",
    "read_view_encoding",
]

ENCODINGS: dict[str, tuple[type[Any], Callable[[Any], Encoding]]] = {
    "sinusoids": (SinusoidsConfig, Sinusoids),
    "hashgrid": (HashGridConfig, HashGrid),
}
"""By name: the dataclass of the block's keys, and the encoding of points that is made of it."""

VIEW_ENCODINGS = {"spherical_harmonics": SphericalHarmonicsConfig}


def make_encoding(block: Mapping[str, Any], where: str) -> Encoding:
    """Makes the encoding of points that a block describes.

    Args:
        block: Its ``type`` names one of `ENCODINGS`.
        where: The block's full name, for messages.

    Returns:
        The encoding.

    Raises:
        InputError: The type is none of ours, or a key unknown, of a wrong type or out of range.
    """
    config, make = ENCODINGS[_type_of(block, list(ENCODINGS), where)]
    return make(read_block(config, block, where))


def read_view_encoding(block: Mapping[str, Any], where: str) -> SphericalHarmonicsConfig:
    """Reads the block of an encoding of view directions; see `make_encoding`."""
    return read_block(VIEW_ENCODINGS[_type_of(block, list(VIEW_ENCODINGS), where)], block, where)


def _type_of(block: Mapping[str, Any], known: list[str], where: str) -> str:
    """Returns a block's ``type``, which must be known."""
    name = str(block.get("type", "none given"))
    if name not in known:
        raise InputError(
            f"{where}.type = {name}: expected one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    return name
