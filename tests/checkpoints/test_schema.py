"""Kinds of values: what fits, and the words for what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from idr.checkpoints.schema import Kind, check, describe, flag, optional, real, table, tensor, text, whole
from idr.errors import InputError

SQUARE = torch.eye(2)
NOT_TENSORS_OF_NUMBERS = [
    SQUARE.to_sparse(), SQUARE.to("meta"), SQUARE.to(torch.complex64), SQUARE.bool(), SQUARE.long(),
    torch.quantize_per_tensor(SQUARE, 0.1, 0, torch.qint8), SQUARE / 0, torch.nested.nested_tensor([SQUARE]),
    SQUARE[0], [1.0], "text", None,
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_TENSORS_OF_NUMBERS, ids=range(len(NOT_TENSORS_OF_NUMBERS)))
def test_tensors_are_dense_finite_floats_of_a_shape(value: Any) -> None:
    kind = tensor(2, None)
    assert kind.fits(SQUARE) and kind.fits(SQUARE.double()) and kind.fits(SQUARE.half())
    assert kind.fits(torch.zeros(2, 0)) and not kind.fits(torch.zeros(3, 2))
    assert not kind.fits(value)
    assert describe(value)


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        (whole(1, 5), [1, 5, 3.0], [0, 6, 2.5, True, "2", None, float("nan"), float("inf"), 10**400]),
        (whole(most=None), [0, 10**400], [-1]),
        (real(0), [0, 0.5, 7], [-1e-9, float("nan"), float("inf"), 10**400, False, "1"]),
        (tensor(2, 2, least=0, most=1), [SQUARE], [-SQUARE, 2 * SQUARE]),
        (text("a", "b"), ["a"], ["c", 1, None]),
        (text(), ["c"], [1]),
        (flag(), [True, None], [0, "true"]),
        (table({}), [{}], [[], None]),
    ],
)
def test_what_fits(kind: Kind, fitting: list[Any], others: list[Any]) -> None:
    assert all(map(kind.fits, fitting)) and not any(map(kind.fits, others))


def test_messages_name_checkpoint_part_key_and_both_values() -> None:
    schema = {"a": table({"b": whole(1, 5)}), "c": optional(real())}
    check({"a": {"b": 2, "other": "unread"}}, schema, "7.pth", "Part")
    for saved, message in (
        (
            {"a": {"b": 9}},
            r"7\.pth, Part\.a\.b: got 9; expected a whole number, 1 to 5; continue from another",
        ),
        ({"a": {}}, r"7\.pth, Part\.a\.b: got nothing; expected a whole number"),
        ({"a": 3}, r"7\.pth, Part\.a: got 3; expected a dictionary"),
        ({"a": {"b": 2}, "c": 10**400}, r"Part\.c: got a huge whole number; expected a number, finite"),
        ("text", r"7\.pth, Part: got 'text'; expected a dictionary"),
    ):
        with pytest.raises(InputError, match=message):
            check(saved, schema, "7.pth", "Part")
    assert describe(3 * SQUARE) == "a float32 tensor (2, 2) with values from 0 to 3"
