"""What a trained run takes from the parts of its checkpoint, each value checked.

A file can be readable and still hold text, NaN or tensors of another shape. Every such value is an
`InputError` that names the checkpoint, the value found and the value expected.

B training images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from idr.errors import InputError
from idr.geometry.cameras import pose_matrix
from idr.model.encodings.base import OPEN_LEVELS
from idr.runs.intrinsics import IntrinsicsCorrections

REMEDY = "choose another checkpoint, or train again"


def read_epoch(part: Mapping[str, Any], where: str) -> int:
    """Returns the number of epochs done.

    Args:
        part: A part of the checkpoint.
        where: The checkpoint, for messages.
    """
    epoch = part.get("epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        _refuse(where, "epoch", epoch, "a whole number of at least 0")
    return epoch


def check_weights(weights: Any, model: nn.Module, where: str) -> None:
    """Refuses weights of another kind than the model's: sparse, quantized, complex, or without values."""
    if not isinstance(weights, Mapping):
        return  # `load_weights` refuses it
    own = model.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor) or name not in own:
            continue
        if not _is_dense(value) or _kind(value) != _kind(own[name]):
            _refuse(where, f"weight {name}", value, f"a dense tensor such as {_describe(own[name])}")


def read_open_levels(part: Mapping[str, Any], where: str) -> dict[str, float]:
    """Returns the open levels of the encodings from ``RecipeState``, by its keys."""
    found = {key: part[key] for key in OPEN_LEVELS if key in part}
    for key, value in found.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            _refuse(where, f"RecipeState: {key}", value, "a finite number of at least 0")
    return found


def read_poses(part: Mapping[str, Any], where: str) -> Tensor:
    """Returns the trained poses of ``CamParameters``, (B, 4, 4) camera-to-world on the CPU."""
    what = "CamParameters: pose_vecs_state_dict.weight"
    table = part.get("pose_vecs_state_dict")
    vectors = table.get("weight") if isinstance(table, Mapping) else table
    vectors = _read_tensor(vectors, [(None, 7)], what, where)
    if not (vectors[:, :4].norm(dim=1) > 0).all():
        _refuse(where, what, "a quaternion of length 0", "quaternions (w, x, y, z) of positive length")
    return pose_matrix(vectors)


def read_scale_mat(part: Mapping[str, Any], where: str) -> Tensor | None:
    """Returns the (4, 4) unit-sphere-to-world map of ``TrainerState``, or None if it has none."""
    found = part.get("scale_mat")
    if found is None:
        return None
    _read_tensor(found, [(4, 4)], "TrainerState: scale_mat", where)
    return found


def read_corrections(part: Mapping[str, Any], num_images: int, where: str) -> IntrinsicsCorrections | None:
    """Returns the trained corrections of the intrinsics from ``CameraState``, or None if it has none.

    Args:
        part: ``CameraState``.
        num_images: B.
        where: The checkpoint, for messages.
    """
    tables = part.get("intrinsics")
    if tables is None:
        return None
    if not isinstance(tables, Mapping):
        _refuse(where, "CameraState: intrinsics", tables, "tables by name")
    _read_tensor(part.get("given_intrinsics"), [(num_images, 4, 4)], "CameraState: given_intrinsics", where)
    values = []
    for name, width in (("focal", 1), ("principal_point", 2)):
        table = torch.zeros(1, width)
        if name in tables:
            shapes = [(1, width), (num_images, width)]
            table = _read_tensor(tables[name], shapes, f"CameraState: intrinsics.{name}", where)
        values.append(table.expand(num_images, width))
    return IntrinsicsCorrections(*values)


def _read_tensor(value: Any, shapes: Sequence[tuple[int | None, ...]], what: str, where: str) -> Tensor:
    """Returns a finite tensor of one of the shapes as float32 on the CPU; None matches any positive size."""
    wanted = " or ".join(str(shape).replace("None", "B") for shape in shapes)
    expected = f"a tensor of finite floating-point numbers of shape {wanted}"
    if not isinstance(value, Tensor) or not _is_dense(value) or not value.is_floating_point():
        _refuse(where, what, value, expected)
    if value.numel() == 0 or not any(_matches(tuple(value.shape), shape) for shape in shapes):
        _refuse(where, what, value, expected)
    tensor = value.detach().float().cpu()
    if not tensor.isfinite().all():
        _refuse(where, what, "a tensor with NaN or infinite values", expected)
    return tensor


def _matches(shape: tuple[int, ...], pattern: tuple[int | None, ...]) -> bool:
    return len(shape) == len(pattern) and all(
        want in (None, size) for size, want in zip(shape, pattern, strict=True)
    )


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and value.device.type != "meta"


def _kind(value: Tensor) -> tuple[bool, bool, bool]:
    return value.is_floating_point(), value.is_complex(), value.dtype == torch.bool


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return (
            f"{value!r} ({type(value).__name__})" if not isinstance(value, str) or len(value) > 60 else value
        )
    kind = "" if _is_dense(value) else f"{'meta' if value.is_meta else value.layout} "
    return f"a {kind}{value.dtype} tensor of shape {tuple(value.shape)}"


def _refuse(where: str, what: str, got: Any, expected: str) -> NoReturn:
    raise InputError(f"{where}: {what}: got {_describe(got)}; expected {expected}; {REMEDY}")
