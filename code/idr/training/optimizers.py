"""States of optimisers and schedules, to and from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idr.errors import InputError


def load_into(target: Any, state: Mapping[str, Any], where: str) -> None:
    """Loads an optimiser's or a schedule's state."""
    try:
        target.load_state_dict(dict(state))
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{where}: the saved state of {type(target).__name__} does not fit ({error}); "
            "use the conf that the checkpoint was trained with"
        ) from error


def with_plain_steps(state: dict[str, Any]) -> dict[str, Any]:
    """Returns an optimiser's state with step counts as integers, as the published code's torch keeps them."""
    slots = {
        key: {name: int(value) if name == "step" else value for name, value in slot.items()}
        for key, slot in state["state"].items()
    }
    return {**state, "state": slots}
