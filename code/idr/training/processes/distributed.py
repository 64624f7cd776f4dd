"""Training by several processes, each with its share of every step's rays (torchrun starts them).

All processes run the same loop on the same batch: random numbers are functions of seed, epoch and step. Only
the model, as `wrap` returns it, works on a share; it answers for all rays, so that every process evaluates
the same loss and takes the same step. Only the first process writes.

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
"""How long a process waits for another: the first one plots and saves alone meanwhile. The death of a process
is noticed at once, by its closed connections; this is for one that hangs."""

T = TypeVar("T")


class LostProcessError(TrainingStoppedError):
    """Another process of the training ended or does not answer."""


class OneProcess:
    """Training without others; what `Ranks` does among several, here for nothing.

    Attributes:
        rank: Number of this process.
        size: N.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def check_pixels(self, num_pixels: int) -> None:
        """Raises `InputError` where an image's pixels are too few for each process to have one."""

    def on_all(self, work: Callable[[], T]) -> T:
        """Does what a user's mistake may end, in all processes or in none.

        Args:
            work: Called once in each process.

        Returns:
            What it returned here.

        Raises:
            InputError, MissingInputError, OutputError: That of the first process that failed, in all.
        """
        return work()

    def on_first(self, work: Callable[[], T]) -> T:
        """Returns what a function returns in the first process, the only one that calls it.

        Args:
            work: Returns something that can be pickled.

        Raises:
            InputError, MissingInputError, OutputError: That of the first process, in all.
        """
        return work()

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return flag

    def wrap(self, model: nn.Module) -> Callable[[Outputs], Outputs]:
        """Returns what stands for the model in a training step.

        Args:
            model: The seam of `IDRNetwork`.

        Returns:
            Called with the whole batch, answers for all R rays.
        """
        return model

    def average_row_gradient(self, table: nn.Embedding, rows: Tensor) -> None:
        """Makes the gradient of cameras, after the backward pass, that of the loss over all rays.

        Args:
            table: Poses or intrinsics, one row for an image, or for all of them.
            rows: The rows that the batch trains, repeated or not; others have no gradient.
        """

    @contextmanager
    def losing_none(self) -> Iterator[None]:
        """Turns the failure of a collective into `LostProcessError`."""
        yield


class Ranks(OneProcess):
    """This process's place among several, whose process group is there.

    Args:
        rank: Number of this process.
        size: N.
    """

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
        with self.losing_none():
            distributed.all_gather_object(mistakes, mistake)
        for first in mistakes:
            if first is not None:
                raise first
        return result  # type: ignore[return-value]

    def on_first(self, work: Callable[[], T]) -> T:  # noqa: D102
        box = [self.on_all(lambda: work() if self.is_first else None)]
        with self.losing_none():
            distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:  # noqa: D102
        flags = torch.tensor([int(flag)])
        with self.losing_none():
            distributed.all_reduce(flags)
        return bool(flags.item())

    def wrap(self, model: nn.Module) -> Callable[[Outputs], Outputs]:  # noqa: D102
        return SharedModel(model, self.rank, self.size)

    def average_row_gradient(self, table: nn.Embedding, rows: Tensor) -> None:
        """Averages the batch's rows over processes, as dense numbers.

        Every process has all images of the batch and thus the same rows; `JoinRows` has multiplied the
        gradient by N. The result is sparse again, as SparseAdam needs it: other images stay untouched.
        """
        if len(rows) == 0:  # all of them frozen, in every process
            return
        weight = table.weight
        rows = torch.unique(rows)
        dense = weight.new_zeros(len(rows), weight.shape[1] + 1)  # the rows, and whether there is a gradient
        if weight.grad is not None:
            dense[:, :-1], dense[:, -1] = weight.grad.coalesce().values(), 1
        distributed.all_reduce(dense)
        if bool(dense[0, -1] > 0):
            values = dense[:, :-1] / self.size
            weight.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), values, weight.shape, is_coalesced=True, check_invariants=False
            )

    @contextmanager
    def losing_none(self) -> Iterator[None]:  # noqa: D102
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
    """Whether another process is the cause; gloo's errors have no class of their own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


@contextmanager
def joined(rank: int, size: int, backend: str) -> Iterator[Ranks]:
    """Joins the processes that torchrun started; it tells them by the environment where to meet.

    Args:
        rank: Number of this process.
        size: N.
        backend: PyTorch's name for what carries the tensors; it must carry those of the host, too.

    Yields:
        The process's place.

    Raises:
        LostProcessError: The others do not come.
    """
    ranks = Ranks(rank, size)
    with ranks.losing_none():
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield ranks
    except LostProcessError:  # nobody is left to take leave of, and torchrun ends us soon
        raise
    except BaseException:
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()
