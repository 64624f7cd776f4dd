"""One checkpoint file: tensors and plain values, written by `torch.save` and read without running code.

The file has torch's format from before version 1.6, which every version reads, the published code's 1.2
included.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from idr.errors import InputError, MissingInputError

_DTYPES = {
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip
"""Types of tensors that every version of torch reads."""

_REFUSED = re.compile(
    r"unsupported (?:global|class)|not an allowed|can only (?:create|build|call)", re.IGNORECASE
)
"""How torch words that a file asks for more than tensors and plain values."""

_GLOBAL = re.compile(r"GLOBAL (\w[\w.]*)|(?:class|function) (\w[\w.]*)")


class DamagedFileError(InputError):
    """A checkpoint file that cannot be read for another reason than that it would run code."""


def write_content(file: BinaryIO, content: Mapping[str, Any]) -> None:
    """Writes a dictionary to an open file; tensors go to the CPU and no longer share memory.

    Raises:
        TypeError: It holds something else than dictionaries, lists, tuples, texts, numbers, None and dense
            tensors, which could not be read again without running code.
    """
    # torch writes past a file object, to its descriptor, and reports errors in its own way.
    buffer = io.BytesIO()
    torch.save(_plain(content), buffer, _use_new_zipfile_serialization=False)
    file.write(buffer.getvalue())


def _plain(value: Any) -> Any:
    """Copies nested content into types that every version of torch reads without running code."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.dtype not in _DTYPES:
            raise TypeError(f"a checkpoint cannot hold a {value.dtype} {value.layout} tensor")
        return value.detach().cpu().contiguous().clone()
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)  # numpy's float64 is a float, too
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(_plain(item) for item in value)
    if isinstance(value, Mapping):
        copy: Any = next((kind() for kind in (Counter, OrderedDict) if isinstance(value, kind)), {})
        for key, item in value.items():
            copy[_plain(key)] = _plain(item)
        if hasattr(value, "_metadata"):  # versions of modules, which nn.Module.state_dict attaches
            copy._metadata = _plain(value._metadata)
        return copy
    raise TypeError(f"a checkpoint holds tensors and plain values, no {type(value).__name__}")


def read_content(path: Path, map_location: str | torch.device | None = "cpu") -> Any:
    """Reads a file of `torch.save`, of any version of torch, that holds tensors and plain values only.

    Raises:
        MissingInputError: There is no such file.
        DamagedFileError: It is cut short or altered.
        InputError: Reading it would run code.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path}: does not exist; check the run folder") from None
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{path}: cannot be read: {reason}; check the disk and permissions") from error
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
