"""What a checkpoint keeps of ``train.sampler`` and ``train.schedule``: the part ``RecipeState``.

Its keys: ``error_maps`` (B, rows, columns) where pixels are drawn by importance; ``open_levels`` where an
encoding's levels open step by step. There is no such part where neither is so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from idr.model.encodings import find_encoding

if TYPE_CHECKING:
    from idr.training.state import TrainingState


def recipe_state(state: TrainingState) -> dict[str, Any]:
    """Returns the part's content; nothing where all is as published."""
    content: dict[str, Any] = {}
    if state.error_maps is not None:
        content["error_maps"] = state.error_maps.maps
    encoding = find_encoding(state.model)
    if encoding is not None and encoding.levels and state.opens_levels:
        content["open_levels"] = float(encoding.open_levels)
    return content


def load_recipe_state(state: TrainingState, saved: Mapping[str, Any], where: str) -> None:
    """Takes over the part; what it lacks starts anew.

    Args:
        state: Its error maps and its model's encoding are filled.
        saved: The part, empty where the checkpoint has none.
        where: The checkpoint's name, for messages.
    """
    if state.error_maps is not None:
        state.error_maps.restore(saved.get("error_maps"), where)
    encoding = find_encoding(state.model)
    if encoding is not None and state.opens_levels and "open_levels" in saved:
        encoding.open_levels = float(saved["open_levels"])
