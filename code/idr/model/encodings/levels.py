"""Open levels of the encodings of a model's networks, set by schedules and stored in checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from idr.checkpoints.schema import is_number
from idr.errors import InputError
from idr.model.encodings.base import Encoding

NETWORKS = {"open_levels": "implicit_network", "open_color_levels": "rendering_network"}
"""Keys of a checkpoint, each with the model's network whose encoding it describes."""

OLD_KEYS = {"open_color_levels": "open_colour_levels"}
"""Names of keys in older checkpoints."""


def find_encoding(model: Any, network: str = "implicit_network") -> Encoding | None:
    """Returns the encoding of points of one of a model's networks; None if it has none."""
    encoding = getattr(getattr(model, network, None), "encoding", None)
    return encoding if isinstance(encoding, Encoding) else None


def leveled_encoding(model: Any, network: str, start: float) -> Encoding:
    """Returns the encoding of one of a model's networks, whose levels a schedule opens from ``start`` on.

    Raises:
        InputError: The encoding has no levels, or fewer than ``start``.
    """
    encoding = find_encoding(model, network)
    where = "train.schedule." + ("levels" if network == "implicit_network" else "color_levels")
    if encoding is None or encoding.levels == 0:
        raise InputError(
            f"{where}: model.{network} has no encoding with levels; set "
            f"model.{network}.encoding.type = hashgrid, or remove the block"
        )
    if start > encoding.levels:
        raise InputError(
            f"{where}.start = {start}: expected 0 to model.{network}.encoding.levels, {encoding.levels}"
        )
    return encoding


def open_levels(model: Any, networks: Collection[str]) -> dict[str, float]:
    """Returns the open levels of the encodings of a model's networks, by checkpoint key."""
    found = {key: find_encoding(model, network) for key, network in NETWORKS.items() if network in networks}
    return {key: encoding.open_levels for key, encoding in found.items() if encoding is not None}


def load_open_levels(
    model: Any,
    saved: Mapping[str, Any],
    networks: Collection[str] = tuple(NETWORKS.values()),
    where: str = "the checkpoint",
) -> None:
    """Opens the levels that were open in training; levels that were never trained stay closed.

    Args:
        model: Its encodings are set.
        saved: The result of `open_levels`, possibly with other keys; encodings without a key do not change.
        networks: Networks whose encodings are set.
        where: The checkpoint's name, for messages.

    Raises:
        InputError: A value is not a number of levels of its encoding.
    """
    for key in open_levels(model, networks):
        encoding = find_encoding(model, NETWORKS[key])
        name = key if key in saved else OLD_KEYS.get(key, key)
        if encoding is None or name not in saved:
            continue
        value = saved[name]
        if not is_number(value) or not 0 <= value <= encoding.levels:
            raise InputError(
                f"{where}: {name} = {value!r}: expected a number of open levels from 0 to {encoding.levels}; "
                "use another checkpoint"
            )
        encoding.set_open_levels(value)
