"""docs/troubleshooting.md lists every fault that the tests plant into a scene, with its message."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli import test_bad_import, test_import_photographs

LIST = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    part = LIST.split(f"\n### {heading}\n")[1].split("\n### ")[0]
    found = dict(re.findall(r"^\| (.+?) \| (.+) \|$", part, flags=re.M))
    found.pop("what is wrong")
    return {name: message.replace("\\|", "|") for name, message in found.items()}


def test_documented_faults_are_those_of_the_tests() -> None:
    for heading, wrong in (
        ("With cameras", test_bad_import.WRONG),
        ("Photographs alone", test_import_photographs.WRONG),
    ):
        listed = rows(heading)
        assert list(listed) == list(wrong)
        for name, (_, message) in wrong.items():
            assert re.search(message, listed[name]), name


def test_at_least_thirty_faults_are_documented() -> None:
    assert len(rows("With cameras")) >= 30
