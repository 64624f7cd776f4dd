"""What a checkpoint keeps of cameras beyond the published files: the part ``CameraState``.

Its keys: ``poses``, the parametrization; where that is no quaternion ``twists``, ``start``,
``optimizer_poses`` and, unless it is "each", ``moments`` of the conf; where intrinsics are trained
``given_intrinsics`` (B, 4, 4), ``intrinsics`` with a table by key of the conf, and ``optimizer_intrinsics``.
There is no such part where all is as published.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idr.errors import InputError
from idr.training.cameras.poses import LearnablePoses, TwistPoses
from idr.training.cameras.row_adam import RowAdam
from idr.training.optimizers import load_into, with_plain_steps

if TYPE_CHECKING:
    from idr.training.state import TrainingState

EACH, MATRIX = "each", "matrix"
"""Values of ``train.cameras.moments``."""

log = logging.getLogger(__name__)

REMEDY = "continue with the block train.cameras that the run was trained with, or start a new run"


def camera_state(state: TrainingState) -> dict[str, Any]:
    """Returns the part's content; nothing where all is as published."""
    content: dict[str, Any] = {}
    if isinstance(state.poses, TwistPoses) and state.optimizer_cam is not None:
        content["twists"] = state.poses.weight.detach()
        content["start"] = state.poses.start
        content["optimizer_poses"] = with_plain_steps(state.optimizer_cam.state_dict())
        if isinstance(state.optimizer_cam, RowAdam):
            content["moments"] = MATRIX
    if state.intrinsics is not None and state.optimizer_intrinsics is not None:
        tables = state.intrinsics.weights()
        content["given_intrinsics"] = state.intrinsics.given
        content["intrinsics"] = {name: weight.detach() for name, weight in tables.items()}
        content["optimizer_intrinsics"] = with_plain_steps(state.optimizer_intrinsics.state_dict())
    if content and state.poses is not None:
        content["poses"] = state.poses.kind
    return content


def load_camera_state(state: TrainingState, saved: Mapping[str, Any], vectors: Tensor, where: str) -> None:
    """Takes over the part, and the published table of poses where these are what is trained.

    Args:
        state: Its poses and intrinsics are filled.
        saved: The part, empty where the checkpoint has none.
        vectors: (B, 7) the published table.
        where: The checkpoint's name, for messages.

    Raises:
        InputError: The checkpoint was trained otherwise than the conf says.
    """
    assert state.poses is not None
    kind = saved.get("poses", LearnablePoses.kind)
    if kind != state.poses.kind:
        raise InputError(f"{where} holds poses trained as {kind}, the conf says {state.poses.kind}; {REMEDY}")
    moments = saved.get("moments", EACH)
    wanted = MATRIX if isinstance(state.optimizer_cam, RowAdam) else EACH
    if moments != wanted:
        raise InputError(
            f"{where} holds poses trained with moments = {moments}, the conf says {wanted}; {REMEDY}"
        )
    if isinstance(state.poses, TwistPoses):
        state.poses.load_state_dict({"weight": saved["twists"]})
        state.poses.start.copy_(saved["start"])
        load_into(state.optimizer_cam, saved["optimizer_poses"], where)
    else:
        state.poses.load_state_dict({"weight": vectors})
    _load_intrinsics(state, saved, where)


def _load_intrinsics(state: TrainingState, saved: Mapping[str, Any], where: str) -> None:
    if state.intrinsics is None:
        if "intrinsics" in saved:
            raise InputError(f"{where} holds trained intrinsics, the conf says they are fixed; {REMEDY}")
        return
    if "intrinsics" not in saved:
        log.warning("%s holds no trained intrinsics: they start from the given ones", where)
        return
    given, tables = state.intrinsics.given, saved["intrinsics"]
    if not torch.equal(saved["given_intrinsics"].to(given), given):
        raise InputError(
            f"{where} holds corrections of other intrinsics than the scene's; continue with the cameras that "
            "the run was trained with (dataset.cam_file), or start a new run"
        )
    here = state.intrinsics.weights()
    if {name: tuple(w.shape) for name, w in tables.items()} != {n: tuple(w.shape) for n, w in here.items()}:
        raise InputError(
            f"{where} holds trained intrinsics {_form(tables)}, the conf asks for {_form(here)}; {REMEDY}"
        )
    with torch.no_grad():
        for name, weight in tables.items():
            here[name].copy_(weight)
    load_into(state.optimizer_intrinsics, saved["optimizer_intrinsics"], where)


def _form(tables: Mapping[str, Any]) -> str:
    """Words the rows of each table."""
    return ", ".join(
        f"{name} ({len(table)} {'row' if len(table) == 1 else 'rows'})" for name, table in tables.items()
    )
