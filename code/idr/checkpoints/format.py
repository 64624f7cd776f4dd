"""One checkpoint file: tensors and plain values; every torch reads it, and reading it runs nothing.

Differs: written in torch's format from before version 1.6, which `torch.load` of any version reads, the one
the published code was made for (1.2) included; and without memory addresses or object identities in it, so
that equal content gives equal bytes. `torch.save` can do either, not both.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from idr.errors import InputError, MissingInputError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPE_SIZES = {"short": 2, "int": 4, "long": 4}
_SYSTEM = {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": _TYPE_SIZES}
_PICKLE = 2
"""The format's own constants, as torch's loader expects them."""

_STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}

_REFUSED = re.compile(
    r"unsupported (?:global|class)|not an allowed|can only (?:create|build|call)", re.IGNORECASE
)
"""How torch words that a file asks for more than tensors and plain values."""

_GLOBAL = re.compile(r"GLOBAL (\w[\w.]*)|(?:class|function) (\w[\w.]*)")


class DamagedFileError(InputError):
    """A checkpoint file that cannot be read, for another reason than that it would run code."""


def write_content(file: BinaryIO, content: Mapping[str, Any]) -> None:
    """Writes a dictionary to an open file; tensors go to the CPU, and sharing between them is not kept.

    Args:
        file: Open for writing, binary.
        content: Dictionaries, lists, tuples, text, numbers, None and dense tensors, nested.

    Raises:
        TypeError: Something else is in it, which could not be read again without running code.
    """
    head = io.BytesIO()
    for part in (_MAGIC, _PROTOCOL, _SYSTEM):
        pickle.dump(part, head, protocol=_PICKLE)
    pickler = _TensorPickler(head)
    pickler.dump(_plain(content, {}))
    pickle.dump([str(index) for index in range(len(pickler.tensors))], head, protocol=_PICKLE)
    file.write(head.getvalue())
    for tensor in pickler.tensors:
        file.write(struct.pack("<q", tensor.numel()))
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


class _StorageStandIn:
    """Marks in the pickle where a tensor's numbers belong."""

    def __init__(self, index: int, tensor: torch.Tensor) -> None:
        self.key = ("storage", _STORAGES[tensor.dtype], str(index), "cpu", tensor.numel(), None)


class _TensorPickler(pickle.Pickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, protocol=_PICKLE)
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        return obj.key if isinstance(obj, _StorageStandIn) else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        stand_in = _StorageStandIn(len(self.tensors), obj)
        self.tensors.append(obj)
        hooks: OrderedDict[str, Any] = OrderedDict()
        return torch._utils._rebuild_tensor_v2, (stand_in, 0, tuple(obj.shape), obj.stride(), False, hooks)


def _plain(value: Any, texts: dict[str, str]) -> Any:
    """Copies nested content so that the pickle depends on values alone, not on which objects are shared."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.dtype not in _STORAGES:
            raise TypeError(f"a checkpoint cannot hold a {value.dtype} {value.layout} tensor")
        return value.detach().cpu().contiguous().clone()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return texts.setdefault(value, value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(_plain(item, texts) for item in value)
    if isinstance(value, Mapping):
        copy: Any = next((kind() for kind in (Counter, OrderedDict) if isinstance(value, kind)), {})
        for key, item in value.items():
            copy[_plain(key, texts)] = _plain(item, texts)
        if hasattr(value, "_metadata"):  # versions of modules, which nn.Module.state_dict attaches
            copy._metadata = _plain(value._metadata, texts)
        return copy
    raise TypeError(f"a checkpoint holds tensors and plain values, no {type(value).__name__}")


def read_content(path: Path, map_location: str | torch.device | None = "cpu") -> Any:
    """Reads a file of torch.save, tensors and plain values only.

    Args:
        path: The file, ours or any torch's.
        map_location: Where tensors go.

    Returns:
        What it holds.

    Raises:
        MissingInputError: No such file.
        DamagedFileError: It is cut short or altered.
        InputError: Reading it would run code; it is refused.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path}: does not exist; check the run folder") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; check the disk and permissions"
        ) from error
    try:
        with warnings.catch_warnings():  # torch warns of what it then refuses
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
    except Exception as error:  # damage shows as RuntimeError, EOFError, UnpicklingError, KeyError, ...
        if isinstance(error, pickle.UnpicklingError) and _REFUSED.search(str(error)):
            names = [name for pair in _GLOBAL.findall(str(error)) for name in pair if name]
            what = f" ({names[0]})" if names else ""
            raise InputError(
                f"{path}: refused, because reading it would run code{what}; expected tensors, numbers and "
                "text only; take checkpoints from people you trust, and save state dictionaries alone"
            ) from error
        raise DamagedFileError(
            f"{path}: refused as damaged, or no checkpoint file ({len(content)} bytes)"
        ) from error
