"""Counts what would make an accelerator stop until the host has read a value."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    "_local_scalar_dense",  # item, tolist, bool, float
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",  # the overload that takes a tensor of counts
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


def waits(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether an operator's result, or its size, is known only once the host has read values."""
    name = function.overloadpacket.__name__
    if name == "repeat_interleave":
        return "Tensor" in function._overloadname
    if name in INDEXING:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in arguments[1])
    return name in READS


class ReadCounter(TorchDispatchMode):
    """Notes where such operators are called; PyTorch's optimizers keep their step counts on the host.

    Attributes:
        places: Operator and the two innermost lines of ours, one a call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __enter__(self) -> ReadCounter:
        # On a CPU `tolist` calls no operator; elsewhere it is one copy to the host.
        self._tolist = torch.Tensor.tolist

        def tolist(tensor: torch.Tensor) -> Any:
            self._note("tolist")
            return self._tolist(tensor)

        torch.Tensor.tolist = tolist  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        torch.Tensor.tolist = self._tolist  # type: ignore[method-assign]

    def _note(self, name: str) -> None:
        """Notes a read by its name and where it is requested."""
        stack = traceback.extract_stack()
        if not any("torch/optim/" in frame.filename for frame in stack):
            ours = [f for f in stack if "/idr/" in f.filename]
            lines = (f"{f.filename.rsplit('/', 1)[1]}:{f.lineno}" for f in ours[:-3:-1])
            self.places.append(f"{name} at {' < '.join(lines)}")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if waits(func, args):
            self._note(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
