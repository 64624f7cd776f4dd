"""Schemas of the parts of a checkpoint that both training and evaluation read.

B images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from idr.checkpoints.manifests import EXPOSURE, TRAINER
from idr.checkpoints.schema import Kind, check, is_tensor, misfit, optional, table, tensor, whole

POSES, INTRINSICS = "CamParameters", "CameraState"


def _is_losses(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and is_tensor(total, ()) for name, total in value.items()
    )


_ERROR = tensor(2, least=0)
_AVERAGES = {
    "steps": whole(),
    "losses": Kind("a dictionary of finite numbers as tensors", _is_losses),
    "error": Kind(f"None or {_ERROR.expected}", lambda value: value is None or _ERROR.fits(value)),
}
_TRAINER_STATE = {
    "step": whole(),
    "seed": whole(most=None),
    "batch_size": optional(whole(1)),
    "averages": optional(table(_AVERAGES)),
    "scale_mat": optional(tensor(4, 4)),
}


def check_trainer_state(saved: Mapping[str, Any], where: str) -> None:
    """Checks the part ``TrainerState``: position, seed, averages, scale matrix; see `check`."""
    check(saved, _TRAINER_STATE, where, TRAINER)


def pose_vectors(saved: Mapping[str, Any], where: str) -> Tensor:
    """Returns the trained poses of the part ``CamParameters``, (B, 7).

    These are quaternions (w, x, y, z) that are not zero, and centers.

    Raises:
        InputError: The part holds no such table.
    """
    vectors = table({"weight": tensor(None, 7)})
    check(saved, {"pose_vecs_state_dict": vectors}, where, POSES)
    weight: Tensor = saved["pose_vecs_state_dict"]["weight"]
    check_quaternions(weight, where, f"{POSES}.pose_vecs_state_dict.weight")
    return weight


def check_quaternions(vectors: Tensor, where: str, name: str) -> None:
    """Refuses poses (B, 7) of which a quaternion is zero, which is no rotation."""
    if not bool((vectors[:, :4].abs().amax(dim=1) > 0).all()):
        raise misfit(where, name, vectors, "quaternions that are not zero")


def check_intrinsics(saved: Mapping[str, Any], where: str) -> None:
    """Checks the trained intrinsics of the part ``CameraState``, which must hold some; see `check`."""
    check(saved, {"given_intrinsics": tensor(None, 4, 4)}, where, INTRINSICS)
    tables = {"focal": optional(tensor(None, 1)), "principal_point": optional(tensor(None, 2))}
    check(saved, {"intrinsics": table(tables)}, where, INTRINSICS)
    for name, values in saved["intrinsics"].items():
        if name not in tables or len(values) not in (1, len(saved["given_intrinsics"])):
            expected = "one row, or one for each image, for focal or principal_point"
            raise misfit(where, f"{INTRINSICS}.intrinsics.{name}", values, expected)


def exposure_tables(saved: Mapping[str, Any], where: str) -> tuple[Tensor, Tensor]:
    """Returns log gain and offset, (B, 3) each, of the part ``ExposureState``; see `check`."""
    check(saved, {"log_gain": tensor(None, 3), "offset": tensor(None, 3)}, where, EXPOSURE)
    log_gain, offset = saved["log_gain"], saved["offset"]
    if len(offset) != len(log_gain):
        raise misfit(where, f"{EXPOSURE}.offset", offset, f"{len(log_gain)} rows, as many as log_gain has")
    return log_gain, offset
