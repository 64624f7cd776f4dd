"""Hash grids whose finest cells follow the size of a pixel, the key ``pixels_per_cell`` of an encoding.

Training replaces the key by a number of cells, which the run's conf then holds: a network's grids must not
change with the images that it is evaluated on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from pyhocon import ConfigTree

from idr.conf.blocks import plain_value
from idr.conf.files import load_conf
from idr.errors import InputError

log = logging.getLogger(__name__)

KEY, RESOLUTION = "pixels_per_cell", "finest_resolution"
STEPS_PER_OCTAVE = 2
"""Resolutions are powers of the square root of 2, so that slightly different cameras give equal grids."""


def fit_grids(conf: ConfigTree, pixel: float) -> None:
    """Replaces ``pixels_per_cell`` in a whole conf by ``finest_resolution``.

    `pixel` is the width of a pixel at the center of the scene, unit-sphere units.

    Raises:
        InputError: The width of a cell is not a number above 0.
    """
    for where, block in _blocks(conf):
        width = block.pop(KEY)
        if isinstance(width, bool) or not isinstance(width, (int, float)) or not width > 0:
            raise InputError(f"{where}.{KEY} = {width}: expected the width of a cell in pixels, above 0")
        cells = 2 * float(block.get("bound", 1.0)) / (width * pixel)
        octaves = round(STEPS_PER_OCTAVE * math.log2(cells)) / STEPS_PER_OCTAVE
        resolution = max(round(2**octaves), int(block.get("base_resolution", 1)))
        block.put(RESOLUTION, resolution)
        pixels = width * cells / resolution
        log.debug("%s: %s = %d, cells of %.2g pixels", where, RESOLUTION, resolution, pixels)


def with_grids_of_run(conf: ConfigTree, runconf: Path) -> ConfigTree:
    """Returns a whole conf with the resolutions that training chose for its ``pixels_per_cell``.

    `runconf` is the conf saved with the run.

    Raises:
        InputError: The run has no such conf.
    """
    if not any(_blocks(conf)):
        return conf
    if not runconf.is_file():
        raise InputError(
            f"{runconf} is missing, and the conf leaves the grids' resolution to {KEY}; expected the conf of "
            f"the training, or {RESOLUTION} in place of {KEY}"
        )
    conf, chosen = deepcopy(conf), load_conf(runconf)
    for where, block in _blocks(conf):
        block.pop(KEY)
        resolution = plain_value(chosen.get(f"{where}.{RESOLUTION}", None))
        if resolution is not None:  # a training without cameras leaves the default
            block.put(RESOLUTION, resolution)
    return conf


def _blocks(conf: ConfigTree) -> Iterator[tuple[str, ConfigTree]]:
    """Yields name and content of each block ``encoding`` with the key."""
    for network in ("implicit_network", "rendering_network"):
        where = f"model.{network}.encoding"
        block = plain_value(conf.get(where, None))
        if isinstance(block, ConfigTree) and plain_value(block.get(KEY, None)) is not None:
            yield where, block
