"""Open levels of the encodings of a model: names in checkpoints, old names, values that do not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from idr.errors import InputError
from idr.model.encodings.hashgrid import HashGrid, HashGridConfig
from idr.model.encodings.levels import find_encoding, leveled_encoding, load_open_levels, open_levels

NETWORKS = ("implicit_network", "rendering_network")


class Model(torch.nn.Module):
    """Two networks on hash grids of 6 and 4 levels."""

    def __init__(self) -> None:
        super().__init__()
        for name, levels in zip(NETWORKS, (6, 4), strict=True):
            network = torch.nn.Linear(3, 3)
            config = HashGridConfig(levels=levels, log2_table=4, base_resolution=2, finest_resolution=8)
            network.encoding = HashGrid(config)
            setattr(self, name, network)


def test_levels_are_stored_and_loaded_by_network() -> None:
    model, other = Model(), Model()
    leveled_encoding(model, "implicit_network", 0).set_open_levels(2.5)
    leveled_encoding(model, "rendering_network", 0).set_open_levels(1)
    saved = open_levels(model, NETWORKS)
    assert saved == {"open_levels": 2.5, "open_color_levels": 1.0}
    load_open_levels(other, saved, ["rendering_network"])
    assert open_levels(other, NETWORKS) == {"open_levels": 6.0, "open_color_levels": 1.0}
    load_open_levels(other, saved)
    assert open_levels(other, NETWORKS) == saved
    load_open_levels(other, {})
    assert open_levels(other, ["implicit_network"]) == {"open_levels": 2.5}


def test_old_checkpoints_spell_colour() -> None:
    model = Model()
    load_open_levels(model, {"open_colour_levels": 3.5})
    assert open_levels(model, NETWORKS) == {"open_levels": 6.0, "open_color_levels": 3.5}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 4.5, None, "2", True, torch.ones(1)])
def test_values_that_do_not_fit_are_refused(value: Any) -> None:
    model = Model()
    with pytest.raises(InputError, match="7: open_color_levels = .*from 0 to 4; use another checkpoint"):
        load_open_levels(model, {"open_color_levels": value}, where="7")
    assert open_levels(model, NETWORKS) == {"open_levels": 6.0, "open_color_levels": 4.0}


def test_encodings_without_levels() -> None:
    plain = torch.nn.Module()
    assert find_encoding(plain) is None and open_levels(plain, NETWORKS) == {}
    load_open_levels(plain, {"open_levels": 2.0})
    with pytest.raises(
        InputError, match=r"schedule\.levels: model\.implicit_network has no encoding with levels"
    ):
        leveled_encoding(plain, "implicit_network", 0)
    with pytest.raises(InputError, match=r"schedule\.color_levels\.start = 5: expected 0 to .*levels, 4"):
        leveled_encoding(Model(), "rendering_network", 5)
