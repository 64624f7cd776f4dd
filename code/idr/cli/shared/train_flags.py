"""The flags of training that ``run_scenes.py`` passes on, and how a process gets ready to train."""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from idr.cli.shared.common import add_conf_arguments
from idr.cli.shared.flags import NARROW, add_flags, add_switches
from idr.errors import InputError
from idr.places import BESIDE_CODE

if TYPE_CHECKING:
    import torch

    from idr.training.stopping import StopRule

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
NEVER = -1
"""A trim threshold that no amount of free memory exceeds."""
LARGEST_ON_HEAP = 32 << 20
"""Bytes of the largest allocation that stays on glibc's heap; the most that it accepts."""
LOOP_THREADS = 2
"""Threads of a narrow network's compiled loops by default; more were not measured."""


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose neither a scene nor a run."""
    add_conf_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images per step")
    passes = "passes over the images, counted from the start of the run"
    parser.add_argument("--nepoch", type=int, default=2000, help=passes)
    parser.add_argument("--expname", default="", help="suffix to the conf's train.expname")
    runs = f"folder of all runs: an absolute path, or a name {BESIDE_CODE}"
    parser.add_argument("--exps_folder", default="exps", help=runs)
    add_flags(parser, "gpu", "device", "threads")
    add_switches(
        parser,
        is_continue="continue a run from its checkpoint, in its folder",
        new_run="with --is_continue: continue in a new folder and leave the old one unchanged",
        train_cameras="train the cameras too, from cameras_linear_init.npz",
    )
    seed = "seed of all random numbers; default: 0, or the continued run's"
    parser.add_argument("--seed", type=int, help=seed)
    add_switches(parser, tensorboard="also write TensorBoard events (pip install 'idr-surface[tensorboard]')")
    minutes = "stop after the step in which this process has run for M minutes"
    parser.add_argument("--max_minutes", type=float, metavar="M", help=minutes)
    psnr = "stop after the epoch whose training PSNR exceeds DB decibels"
    parser.add_argument("--target_psnr", type=float, metavar="DB", help=psnr)
    add_switches(parser, report="write report.html into the run's folder after training")


def stop_rule(arguments: argparse.Namespace, began: float) -> StopRule:
    """Returns the rule of ``--max_minutes``, since `began` by `time.monotonic()`, and ``--target_psnr``.

    Raises:
        InputError: A time that is not positive.
    """
    from idr.training.stopping import StopRule

    minutes = arguments.max_minutes
    if minutes is not None and minutes <= 0:
        raise InputError(f"--max_minutes {minutes:g}: expected a number of minutes above 0")
    return StopRule(minutes, arguments.target_psnr, began)


@contextmanager
def cpu_prepared() -> Iterator[None]:
    """Flushes denormal numbers to zero, and keeps freed memory in this process.

    glibc otherwise returns the memory of a step to the kernel if the order of allocations happens to leave it
    at the end of the heap. The next step then waits for the kernel to clear the same pages again.

    On exit, restores the numbers of threads: the demo renders in the process that trained.
    """
    import torch

    from idr.model.twins import set_loop_threads

    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, NEVER)
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        set_loop_threads(None)


def choose_threads(num_threads: int | None, model: torch.nn.Module, device: torch.device) -> str:
    """Sets the number of CPU threads to that of ``--threads``; without it, a narrow network gets one.

    Its threads would wait for each other longer than they compute, above all on a shared machine. With the
    compiled tracer, a narrow network's loops take the threads, by default up to two, and torch's operators
    one: waking a thread for less than a millisecond costs more than it saves. The choice depends on the
    network and the machine and not on the load, so that equal seeds give equal bits.

    Returns:
        The number in words, such as `` (2 threads)``; empty on a GPU.
    """
    import torch

    from idr.model.tracing.compiled import CompiledTracer
    from idr.model.twins import find_kernel, set_loop_threads

    if device.type != "cpu":
        return ""
    widest = max((min(p.shape) for p in model.parameters() if p.ndim == 2), default=0)
    narrow = widest <= NARROW
    traces_in_loops = isinstance(getattr(model, "ray_tracer", None), CompiledTracer)
    if narrow and traces_in_loops and find_kernel("hashgrid_numba") is not None:
        count = num_threads or min(torch.get_num_threads(), LOOP_THREADS)
        set_loop_threads(count)
        torch.set_num_threads(1)
    else:
        count = num_threads or (1 if narrow else torch.get_num_threads())
        torch.set_num_threads(count)
    return f" ({count} thread{'s' if count > 1 else ''})"
