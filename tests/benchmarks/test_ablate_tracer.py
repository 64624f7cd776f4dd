"""`benchmarks/ablate_tracer.py`: switches take effect and are undone; the table compares with the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ablate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ablate_tracer

    return ablate_tracer


def test_every_variant_changes_something_and_is_undone(ablate) -> None:
    for name, switches in ablate.VARIANTS.items():
        before = [getattr(owner, attribute) for owner, attribute, _ in switches]
        with ablate.applied(name):
            inside = [getattr(owner, attribute) for owner, attribute, _ in switches]
            assert all(new != old for new, old in zip(inside, before, strict=True)), name
        assert [getattr(owner, attribute) for owner, attribute, _ in switches] == before
        assert switches or name == ablate.WHOLE


def test_the_table_compares_with_the_whole_tracer(ablate) -> None:
    parts = (*ablate.PHASES, "view")

    def turns(*values: tuple[float, float]) -> list[dict[str, tuple[float, float]]]:
        return [dict.fromkeys(parts, value) for value in values]

    variant = "both divisions"
    figures = {
        "times": {ablate.WHOLE: turns((2.0, 4.0), (1.0, 4.0)), variant: turns((1.5, 5.0), (3.0, 5.0))},
        "contracts": {
            ablate.WHOLE: [],
            variant: ["a.py::test_one[x]", "a.py::test_one[y]", "b.py::test_two"],
        },
    }
    whole, without = ablate.table(figures).splitlines()[2:]
    assert whole == "| nothing |" + " 4.00, +0% |" * len(parts) + " none |"
    assert without == f"| {variant} |" + " +25%, +50% |" * len(parts) + " test_one (2), test_two (1) |"
