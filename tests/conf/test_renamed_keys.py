"""Keys and values of earlier versions: renamed ones still work with a warning, removed ones are refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from idr.conf.blocks import read_block
from idr.conf.build import block_arguments
from idr.conf.files import load_conf
from idr.errors import InputError


@dataclass(frozen=True)
class Groups:
    color: float = 1.0

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"colour": "color"}


@dataclass(frozen=True)
class Train:
    max_norm: float | None = None
    form: Literal["diagonal", "full"] = "diagonal"
    groups: Groups = field(default_factory=Groups)
    late: Groups | None = None

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"longest": "max_norm", "moments": "form", "parts": "groups"}
    RENAMED_VALUES: ClassVar[dict[str, dict[str, str]]] = {"form": {"each": "diagonal", "matrix": "full"}}
    REMOVED_KEYS: ClassVar[dict[str, str]] = {"precision": "lower precision never paid; remove the key"}


class Loss:
    config_class = Groups


def read(text: str, overrides: tuple[str, ...] = (), unknown: Any = "refuse") -> Train:
    return read_block(Train, load_conf(f"train {{\n{text}\n}}", overrides)["train"], "train", unknown=unknown)


@pytest.mark.parametrize("unknown", ["refuse", "warn", "ignore"])
def test_old_names_read_as_the_new_ones(unknown: str, caplog: pytest.LogCaptureFixture) -> None:
    new = read("max_norm = 15, form = full, groups { color = 5 }, late { color = 2 }", unknown=unknown)
    assert new == Train(15.0, "full", Groups(5.0), Groups(2.0)) and not caplog.messages
    old = read("longest = 15, moments = matrix, parts { colour = 5 }, late { colour = 2 }", unknown=unknown)
    assert old == new
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 5
    assert caplog.messages == [
        "conf: train.longest is now train.max_norm; the old name still works",
        "conf: `train.moments = matrix` is now `train.form = full`; the old form still works",
        "conf: train.parts is now train.groups; the old name still works",
        "conf: train.groups.colour is now train.groups.color; the old name still works",
        "conf: train.late.colour is now train.late.color; the old name still works",
    ]


def test_old_names_in_overrides(caplog: pytest.LogCaptureFixture) -> None:
    overrides = ("train.longest=3", "train.form=each", "train.parts.colour=2", "train.parts.colour=4")
    assert read("", overrides) == Train(3.0, "diagonal", Groups(4.0))
    assert len(caplog.messages) == 4


def test_old_names_in_blocks_that_a_class_declares(caplog: pytest.LogCaptureFixture) -> None:
    assert block_arguments(Loss, {"colour": 3}, "loss") == {"color": 3.0}
    assert caplog.messages == ["conf: loss.colour is now loss.color; the old name still works"]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("max_norm = 1, longest = 2", ()),
        ("longest = 2, max_norm = 1", ()),
        ("longest = 2", ["train.max_norm=1"]),
    ],
)
@pytest.mark.parametrize("unknown", ["refuse", "warn", "ignore"])
def test_both_names_at_once_are_refused(text: str, overrides: tuple[str, ...], unknown: str) -> None:
    message = r"^train\.max_norm: got it twice, also under its old name train\.longest; remove the old one$"
    with pytest.raises(InputError, match=message):
        read(text, overrides, unknown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precision = 3", r"^train\.precision: this key was removed: lower precision never paid; remove"),
        ("longest = abc", r"^train\.max_norm: got 'abc' \(a text\); expected a number"),
        ("moments = matrx", r"^train\.form: got 'matrx' .*expected one of diagonal, full"),
        ("moments = [matrix]", r"^train\.form: got \['matrix'\]"),
        ("parts = 3", r"^train\.groups: expected a block"),
    ],
)
@pytest.mark.parametrize("unknown", ["refuse", "warn", "ignore"])
def test_removed_keys_and_wrong_values(text: str, message: str, unknown: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text, unknown=unknown)
