"""Where Triton's kernels run, and their launch."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from typing import Any

import torch
from torch import Tensor

from idr.model.kernels.numba_support import can_import

log = logging.getLogger(__name__)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels, on any device; Triton reads the variable at its import."""


@functools.cache
def has_triton() -> bool:
    """Whether Triton can be imported here; a GPU is not needed for that."""
    return can_import("triton")


@functools.cache
def _device_type() -> str | None:
    """Returns torch's name for the type of Triton's GPU; None without a GPU."""
    from triton.runtime import driver

    try:
        return str(driver.active.get_active_torch_device().type)
    except RuntimeError as error:
        if torch.accelerator.is_available():  # for example, there is no C compiler
            log.warning("Triton cannot use the GPU: %s", error)
        return None


def runs_on(device: torch.device) -> bool:
    """Whether the kernels run on this device."""
    return INTERPRETED or device.type == _device_type()


def launch(kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Runs programs of a kernel on the device of its first argument, a tensor."""
    first: Tensor = arguments[0]
    if 0 in programs:
        return
    # Triton launches on the current device.
    on_cpu = first.device.type == "cpu"
    module = torch.get_device_module(first.device)
    with contextlib.nullcontext() if on_cpu else module.device(first.device):
        kernel[programs](*arguments, **constants)
