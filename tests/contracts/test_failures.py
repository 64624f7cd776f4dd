"""Each named failure is provoked by a test and documented with its remedy."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from idr import failures

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CONSTANTS = {
    value: name
    for name, value in vars(failures).items()
    if name.isupper() and isinstance(value, str) and value in failures.NAMES
}


@functools.cache
def names_in_asserts() -> set[str]:
    """Returns the names of failures and of their constants in the assertions of all other tests."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path == Path(__file__):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        for test in tests:
            # A test may assert a name that its decorator parametrizes.
            for node in [*test.decorator_list, *(n for n in ast.walk(test) if isinstance(n, ast.Assert))]:
                for part in ast.walk(node):
                    if isinstance(part, ast.Attribute):
                        found.add(part.attr)
                    elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                        found.update(name for name in failures.NAMES if name in part.value)
    return found


def test_every_name_has_a_constant() -> None:
    assert set(CONSTANTS) == set(failures.NAMES)


@pytest.mark.parametrize("name", failures.NAMES)
def test_a_test_provokes_it(name: str) -> None:
    assert names_in_asserts() & {name, CONSTANTS[name]}, f"no test asserts {name}"


@pytest.mark.parametrize("name", failures.NAMES)
def test_an_entry_names_a_remedy(name: str) -> None:
    entries = dict(re.findall(r"^## (\S+)\n(.+?)(?=^## |\Z)", DOCS, flags=re.M | re.S))
    remedy = r"\b(run|negate|flip|import|scale|must|lower|start|look|check)\b"
    assert re.search(remedy, entries[name], flags=re.I), f"{name}: the entry has no remedy"


def test_the_stops_of_a_chain_are_listed() -> None:
    sources = sorted((ROOT / "code" / "idr" / "cli" / "photos").glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    printed = set(re.findall(r'"([a-z]+-[a-z-]+|interrupted): ', text))
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", DOCS, flags=re.M))
    assert printed == listed and "import-failed" in printed
