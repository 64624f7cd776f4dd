"""Confs with earlier keys (tests/conf/old) read as the current confs, with a warning per old name."""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from idr.conf.blocks import plain_value, read_block
from idr.conf.build import LOSS_TERMS, build_model
from idr.conf.files import load_conf
from idr.model.implicit_differentiable_renderer import ModelConfig
from idr.model.implicit_network import ImplicitNetworkConfig
from idr.model.loss import LossConfig
from idr.model.rendering_network import RenderingNetworkConfig
from idr.model.tracing.common import TracerConfig
from idr.pictures.plots import PlotConfig
from idr.training.config import TrainConfig

CONFS = Path(__file__).parents[2] / "confs"
OLD = Path(__file__).parent / "old"
BLOCKS = {"train": TrainConfig, "plot": PlotConfig, "loss": LossConfig, "model": ModelConfig}
CONFIGS = (*BLOCKS.values(), ImplicitNetworkConfig, RenderingNetworkConfig, TracerConfig)
RENAMED = [
    "train.longest_gradient is now train.max_grad_norm; the old name still works",
    "train.cameras.hold_centres is now train.cameras.freeze_centers_until; the old name still works",
    "`train.cameras.moments = matrix` is now `train.cameras.preconditioner = full`; the old form still works",
    "train.schedule.colour_levels is now train.schedule.color_levels; the old name still works",
    "train.schedule.parts is now train.schedule.param_groups; the old name still works",
    "train.schedule.param_groups.colour_encoding is now train.schedule.param_groups.color_encoding; "
    "the old name still works",
    "model.smallest_slope is now model.min_abs_cos; the old name still works",
]
WARNINGS = {
    "fast_demo_trained_cameras": RENAMED,
    "fast_trained_cameras": RENAMED,
    "dtu_quick_trained_cameras": [],
}


ADDED = {"fast_trained_cameras": ["loss.patch=null", "train.sampler.mixed_pixels=0"]}
"""Overrides that undo what a conf has gained since."""


def blocks_of(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    conf = load_conf(path, overrides)
    for term in LOSS_TERMS:
        assert plain_value(conf["loss"].pop(term, None)) is None
    return {name: read_block(cls, conf[name], name) for name, cls in BLOCKS.items()}


@pytest.mark.parametrize("name", WARNINGS)
def test_an_old_conf_reads_as_the_current_one(name: str, caplog: pytest.LogCaptureFixture) -> None:
    current = blocks_of(CONFS / f"{name}.conf", ADDED.get(name, ()))
    assert not caplog.messages
    assert blocks_of(OLD / f"{name}.conf") == current
    assert sorted(caplog.messages) == sorted(f"conf: {warning}" for warning in WARNINGS[name])
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}


def test_old_names_reach_training_and_network() -> None:
    old = blocks_of(OLD / "fast_trained_cameras.conf")["train"]
    assert (old.max_grad_norm, old.cameras.freeze_centers_until, old.cameras.preconditioner) == (
        15,
        0.2,
        "full",
    )
    assert old.schedule.color_levels.start == 1 and old.schedule.param_groups.color_encoding.factor == 5
    with torch.device("meta"):
        network = build_model(load_conf(OLD / "fast_trained_cameras.conf"))
    assert network.min_abs_cos == 0.1


def test_old_names_in_overrides_replace_nothing_else() -> None:
    path = CONFS / "dtu_fixed_cameras.conf"
    overrides = [
        "train.longest_gradient=3",
        "train.cameras.moments=each",
        "train.schedule.parts.encoding.factor=2",
    ]
    old = read_block(TrainConfig, load_conf(path, overrides)["train"], "train")
    overrides = ["train.max_grad_norm=3", "train.schedule.param_groups.encoding.factor=2"]
    assert old == read_block(TrainConfig, load_conf(path, overrides)["train"], "train")


def with_nested(cls: type) -> Iterator[type]:
    """Yields a config dataclass and those of its blocks."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for member in (hint, *typing.get_args(hint)):
            if isinstance(member, type) and dataclasses.is_dataclass(member):
                yield from with_nested(member)


@pytest.mark.parametrize("cls", dict.fromkeys(c for config in CONFIGS for c in with_nested(config)))
def test_renamed_keys_lead_to_keys_and_values(cls: type) -> None:
    hints, names = typing.get_type_hints(cls), {field.name for field in dataclasses.fields(cls)}
    renamed, removed = getattr(cls, "RENAMED_KEYS", {}), getattr(cls, "REMOVED_KEYS", {})
    assert set(renamed.values()) <= names and not (set(renamed) | set(removed)) & names
    for key, values in getattr(cls, "RENAMED_VALUES", {}).items():
        assert set(values.values()) <= set(typing.get_args(hints[key]))
        assert not set(values) & set(typing.get_args(hints[key]))
