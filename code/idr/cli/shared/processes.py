"""Runs a command as one process of a group that torchrun started."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from idr.cli.shared.common import EXIT_STOPPED, EXIT_USER_ERROR, choose_device
from idr.errors import USER_ERRORS, InputError, TrainingStoppedError
from idr.progress_bar import bars_shown

if TYPE_CHECKING:
    import torch

    from idr.training.processes.distributed import OneProcess

    Body = Callable[[torch.device, OneProcess], int]

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def run_in_group(gpu: str, device: str | None, body: Body) -> int:
    """Runs a command's body in this process, under torchrun as a member of a process group.

    Only the first process of a group prints and logs. `gpu` and `device` are the flags' values.

    Raises:
        InputError: The device is missing, or several processes cannot use it.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        from idr.training.processes.distributed import OneProcess

        return body(choose_device(gpu, device), OneProcess())

    # Set before torch is loaded, which otherwise warns in every process about unused parameters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from idr.training.processes.distributed import LostProcessError, joined

    chosen = _device_of_rank(gpu, device, int(os.environ["LOCAL_RANK"]))
    with joined(int(os.environ["RANK"]), size, BACKENDS[chosen.type]) as group:
        if group.is_first:
            return body(chosen, group)
        logging.getLogger("idr").setLevel(logging.CRITICAL)
        nowhere = open(os.devnull, "w", encoding="utf-8")
        with nowhere, contextlib.redirect_stdout(nowhere), bars_shown(False):
            try:
                return body(chosen, group)
            except LostProcessError:
                raise  # the lost process may be the first one
            except USER_ERRORS:
                return EXIT_USER_ERROR
            except TrainingStoppedError:
                return EXIT_STOPPED


def _device_of_rank(gpu: str, device: str | None, local_rank: int) -> torch.device:
    """Returns the CPU, or a GPU for each process of this machine."""
    chosen = choose_device("ignore" if gpu == "auto" else gpu, device)
    if chosen.type not in BACKENDS:
        raise InputError(
            f"--device {chosen}: several processes can share CPUs or CUDA devices; start one process without "
            "torchrun, or give --device cpu"
        )
    if chosen.type == "cpu":
        return chosen

    import torch

    if chosen.index is not None:
        raise InputError(f"--device {chosen}: each process uses its own GPU; give --device cuda")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; start "
            "as many processes as GPUs (torchrun --nproc_per_node), or give --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
