"""Stand-ins for a device with graphs: what it refuses, and what it repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.reads import waits

ADAM = torch.ops.aten._fused_adam_


class Strict(TorchDispatchMode):
    """Refuses what no graph can hold: reads, sizes that follow values, and tensors of the host.

    Args:
        device: Type of the device of all tensors.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.operators = device, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args):
            raise AssertionError(f"{func} waits for the host")
        self.operators += 1
        if func is ADAM.tensor_lr:  # PyTorch has no fake version of it
            assert kwargs["lr"].device.type == self.device
            if self.device != "cpu":
                func, kwargs = ADAM.default, {**kwargs, "lr": 1.0}
        out = func(*args, **kwargs)
        for x in tree_leaves((args, kwargs, out)):
            if isinstance(x, Tensor) and x.device.type != self.device:
                raise AssertionError(f"{func} touches a tensor on {x.device}")
        return out


class RecordedGraph:
    """The operators of a step with their tensors; `replay` repeats them in the same memory."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, old in self.calls:
            returns = func._schema.returns
            changes = any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
            if not changes and any(r.alias_info for r in returns):
                continue  # a view
            new = func(*args, **kwargs)
            if not changes:
                for target, value in zip(tree_leaves(old), tree_leaves(new), strict=True):
                    if isinstance(target, Tensor):
                        target.copy_(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.graph.calls.append((func, args, kwargs or {}, out))
        return out


class Graphs:
    """Stands in for `torch.cuda`: recording leaves what the step changes as it was.

    Args:
        state: Returns the tensors that the step changes.
    """

    CUDAGraph = RecordedGraph

    def __init__(self, state: Any) -> None:
        self.state, self.recorded = state, 0

    def Stream(self, device: torch.device | None = None) -> Any:  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    @contextmanager
    def graph(self, graph: RecordedGraph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.recorded += 1
        tensors: Iterable[Tensor] = list(self.state())
        before = [x.detach().clone() for x in tensors]
        with _Recorder(graph):
            yield
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
