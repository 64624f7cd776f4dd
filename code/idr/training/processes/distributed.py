"""Training in several processes that torchrun started, each with a share of every step's rays.

All processes run the same loop on the same batch: random numbers are functions of seed, epoch and step. Only
the model, as `wrap` returns it, works on a share of the rays. It returns the outputs of all rays, so that
every process evaluates the same loss and takes the same step. Only the first process writes.

N processes, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from idr.errors import USER_ERRORS, InputError, TrainingStoppedError
from idr.training.processes.shared_model import Outputs, SharedModel

PATIENCE = timedelta(hours=1)
"""Time a process waits for another one, which may be plotting and saving. A process that ends is noticed at
once by its closed connections; the limit is for one that hangs."""

T = TypeVar("T")


class LostProcessError(TrainingStoppedError):
    """Another process of the group ended or does not respond."""


class OneProcess:
    """A process group of one; `rank` is the number of this process, `size` is N."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def check_pixels(self, num_pixels: int) -> None:
        """Raises `InputError` if an image has fewer pixels than there are processes."""

    def on_all(self, work: Callable[[], T]) -> T:
        """Calls a function in each process and returns its result; if it fails in one, all fail.

        Raises:
            InputError, MissingInputError, OutputError: The error of the first process that failed, in all.
        """
        return work()

    def on_first(self, work: Callable[[], T]) -> T:
        """Calls a function in the first process only and returns its result, which can be pickled, in all.

        Raises:
            InputError, MissingInputError, OutputError: The error of the first process, in all.
        """
        return work()

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return flag

    def wrap(self, model: nn.Module) -> Callable[[Outputs], Outputs]:
        """Returns what a step calls with the whole batch for the model's outputs of all R rays."""
        return model

    def average_row_gradient(self, table: nn.Embedding, rows: Tensor) -> None:
        """Averages the gradient of cameras over processes, after the backward pass.

        `rows` are those of the table that the batch trains, possibly repeated; others have no gradient.
        """

    @contextmanager
    def reporting_lost_processes(self) -> Iterator[None]:
        """Turns the failure of a collective operation into `LostProcessError`."""
        yield


class ProcessGroup(OneProcess):
    """Several processes; torch's process group is open."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def check_pixels(self, num_pixels: int) -> None:  # noqa: D102
        if num_pixels < self.size:
            raise InputError(
                f"{self.size} processes share the pixels of each image, which are {num_pixels}; raise "
                "train.num_pixels or start fewer processes"
            )

    def on_all(self, work: Callable[[], T]) -> T:  # noqa: D102
        result, mistake = None, None
        try:
            result = work()
        except USER_ERRORS as error:
            mistake = error
        mistakes: list[Any] = [None] * self.size
        with self.reporting_lost_processes():
            distributed.all_gather_object(mistakes, mistake)
        for first in mistakes:
            if first is not None:
                raise first
        return result  # type: ignore[return-value]

    def on_first(self, work: Callable[[], T]) -> T:  # noqa: D102
        box = [self.on_all(lambda: work() if self.is_first else None)]
        with self.reporting_lost_processes():
            distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:  # noqa: D102
        flags = torch.tensor([int(flag)])
        with self.reporting_lost_processes():
            distributed.all_reduce(flags)
        return bool(flags.item())

    def wrap(self, model: nn.Module) -> Callable[[Outputs], Outputs]:  # noqa: D102
        return SharedModel(model, self.rank, self.size)

    def average_row_gradient(self, table: nn.Embedding, rows: Tensor) -> None:
        """Averages the batch's rows over processes as a dense tensor.

        Every process has all images of the batch, and so the same rows; `JoinRows` has multiplied the
        gradient by N. The result is sparse again, so that SparseAdam leaves other images unchanged.
        """
        if len(rows) == 0:  # all are frozen, in every process
            return
        weight = table.weight
        rows = torch.unique(rows)
        dense = weight.new_zeros(len(rows), weight.shape[1] + 1)  # the rows, and a flag for a gradient
        if weight.grad is not None:
            dense[:, :-1], dense[:, -1] = weight.grad.coalesce().values(), 1
        distributed.all_reduce(dense)
        if bool(dense[0, -1] > 0):
            values = dense[:, :-1] / self.size
            weight.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), values, weight.shape, is_coalesced=True, check_invariants=False
            )

    @contextmanager
    def reporting_lost_processes(self) -> Iterator[None]:  # noqa: D102
        try:
            yield
        except RuntimeError as error:
            if not _is_of_a_collective(error):
                raise
            raise LostProcessError(
                f"process {self.rank} of {self.size}: another process ended or does not answer (its message "
                "may stand above); the last checkpoint is unharmed; continue with --is_continue"
            ) from error


def _is_of_a_collective(error: RuntimeError) -> bool:
    """Whether an error comes from a collective operation; gloo's errors have no class of their own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


@contextmanager
def joined(rank: int, size: int, backend: str) -> Iterator[ProcessGroup]:
    """Opens the group of the processes that torchrun started; their meeting point is in the environment.

    The backend of the communication must also transfer tensors on the host.

    Raises:
        LostProcessError: The other processes do not join.
    """
    group = ProcessGroup(rank, size)
    with group.reporting_lost_processes():
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield group
    except LostProcessError:  # closing the group would wait for the lost process; torchrun ends this one soon
        raise
    except BaseException:
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()
