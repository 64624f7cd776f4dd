"""Masks by a segmentation network, of each photograph alone: that of the package rembg.

H rows, W columns.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idr.errors import InputError, MissingInputError
from idr.preprocess.scene_views import Mask

REMBG = "rembg"
MODEL = "isnet-general-use"
"""Network of rembg for objects of any kind."""
INSIDE = 127.5
"""Opacity, of 255, above which a pixel belongs to the object."""


def require_rembg() -> None:
    """Raises `MissingInputError` if rembg is not installed."""
    if importlib.util.find_spec(REMBG) is None:
        raise MissingInputError(f"--masks {REMBG} needs rembg: pip install 'idr-surface[segment]'")


def open_network() -> Callable[[NDArray[np.uint8]], Mask]:
    """Loads the network; returns the function from a photograph (H, W, 3), RGB, to its mask (H, W).

    rembg downloads the network's weights at its first use.

    Raises:
        MissingInputError: rembg or a package that it needs is not installed.
        InputError: The weights cannot be loaded.
    """
    require_rembg()
    try:
        rembg: Any = importlib.import_module(REMBG)
    except (ImportError, SystemExit) as error:  # it exits if its own runtime is missing
        raise MissingInputError(
            f"rembg cannot be loaded ({error}): pip install 'idr-surface[segment]'"
        ) from error
    try:
        session = rembg.new_session(MODEL)
    except Exception as error:  # of its downloads: any of several packages' errors
        raise InputError(
            f"rembg cannot load its network {MODEL} ({error}); its weights are downloaded at first use: "
            "connect this machine to the internet once, or use --masks auto"
        ) from error

    def segment(rgb: NDArray[np.uint8]) -> Mask:
        mask: Mask = np.asarray(rembg.remove(rgb, session=session, only_mask=True)) > INSIDE
        return mask

    return segment
