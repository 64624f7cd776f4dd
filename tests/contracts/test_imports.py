"""The house rules that a parser can see: imports, devices, prints, lengths of files."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CODE = Path(__file__).parents[2] / "code"
PACKAGE = CODE / "idr"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 350

# Leaves that anything may import, then for each unit (file or folder of idr/) the units it may import.
LEAVES = {"errors", "failures", "files", "loops"}
CHECKPOINTS = {"checkpoint_format", "checkpoint_manifests", "checkpoint_saving", "checkpoints"}
CONFIG = {"config", "config_blocks"}
PICTURES = {"pages", "rendering", "meshing", "plots", "plots_surface", "fields", "geometry"}
WORKERS = PICTURES | CONFIG | CHECKPOINTS | {"workspace", "plugins", "datasets", "model"}
TABLE: dict[str, set[str]] = {
    "errors": set(),
    "failures": set(),
    "files": {"errors"},
    "loops": set(),
    "journal": set(),
    "config_blocks": set(),
    "config": {"config_blocks"},
    "plugins": CONFIG,
    **{unit: CHECKPOINTS for unit in CHECKPOINTS},
    "workspace": CHECKPOINTS | CONFIG,
    "geometry": set(),
    "pages": set(),
    "fields": {"geometry"},
    "model": {"fields", "geometry"} | CONFIG,
    "datasets": {"geometry"} | CONFIG,
    "rendering": {"fields", "geometry"},
    "meshing": {"fields", "geometry"},
    "plots": PICTURES,
    "plots_surface": PICTURES,
    "training": WORKERS,
    "evaluation": WORKERS,
    "preprocess": WORKERS,
    "importers": {"preprocess", "datasets", "geometry"},
    "export": {"rendering", "meshing", "workspace", "geometry"},
    "viewer": {"rendering", "meshing", "workspace", "evaluation", "export", "geometry", "plugins"},
    "cli": WORKERS | {"journal", "training", "evaluation", "preprocess", "importers", "export", "viewer"},
    "__init__": {"evaluation"},
}


def unit_of(path: Path) -> str:
    """`model` for idr/model/loss.py, `config` for idr/config.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules_of(node: ast.AST) -> list[str]:
    """Dotted modules that one import statement names; `from idr import config` counts as idr.conf.files."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module == "idr":
        return [f"idr.{alias.name}" for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def foreign_units(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for module in modules_of(node):
            parts = module.split(".")
            if parts[0] == "idr" and len(parts) > 1 and parts[1] != unit_of(path):
                yield getattr(node, "lineno", 0), parts[1]


def breaches(path: Path, tree: ast.Module) -> list[str]:
    """Imports of one file that the table does not allow."""
    allowed = TABLE.get(unit_of(path))
    if allowed is None:
        return [f"{path.name}: unit `{unit_of(path)}` is not in the import table"]
    return [
        f"{path.relative_to(CODE)}:{line}: {unit_of(path)} may not import {unit}"
        for line, unit in foreign_units(path, tree)
        if unit not in allowed | LEAVES
    ]


def at_top(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run on import, `if TYPE_CHECKING` left out."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield from ast.walk(node) if isinstance(node, (ast.If, ast.Try, ast.With)) else [node]


def heavy_imports(tree: ast.Module) -> list[str]:
    """Imports on top of a command's module that would make `-h` slow."""
    modules = [module for node in at_top(tree) for module in modules_of(node)]
    return [
        module
        for module in modules
        if module.split(".")[0] not in sys.stdlib_module_names
        and not (module == "idr.errors" or module == "idr.cli" or module.startswith("idr.cli."))
    ]


def device_literals(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.split(":")[0] in ("cuda", "mps"):
                found.append(f"line {node.lineno}: {node.value!r}")
        elif isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps"):
            found.append(f"line {node.lineno}: .{node.attr}")
    return found


def prints_and_exits(tree: ast.Module) -> list[str]:
    names = (
        "print",
        "exit",
        "quit",
        "breakpoint",
        "sys.exit",
        "os._exit",
        "sys.stdout.write",
        "sys.stderr.write",
    )
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"line {call.lineno}: {ast.unparse(call.func)}" for call in calls if ast.unparse(call.func) in names
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_keeps_the_house_rules(path: Path) -> None:
    text, tree = path.read_text(encoding="utf-8"), parse(path)
    assert breaches(path, tree) == []
    assert len(text.splitlines()) <= MAX_LINES
    if tree.body and not (len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)):
        assert "from __future__ import annotations" in text
    if unit_of(path) == "cli":
        assert heavy_imports(tree) == []
    else:
        assert device_literals(tree) == []
        assert prints_and_exits(tree) == []


def test_geometry_imports_nothing_of_ours_but_errors() -> None:
    for path in sorted((PACKAGE / "geometry").glob("*.py")):
        assert {unit for _, unit in foreign_units(path, parse(path))} <= {"errors"}, path


def test_rendering_and_meshing_know_no_model() -> None:
    for unit in ("rendering", "meshing"):
        assert TABLE[unit].isdisjoint({"model", "training", "evaluation", "datasets"})


def test_code_folder_does_not_shadow_the_standard_library() -> None:
    assert not (CODE / "__init__.py").exists()


@pytest.mark.parametrize(
    ("where", "source", "rule"),
    [
        ("geometry/x.py", "from idr.conf.files import read_block", breaches),
        ("model/x.py", "def f():\n    import idr.training.trainer", breaches),
        ("meshing/x.py", "from idr import model", breaches),
        ("somewhere/x.py", "import math", breaches),
        ("cli/x.py", "import torch", heavy_imports),
        (
            "cli/x.py",
            "try:\n    from idr.conf.files import load_conf\nexcept ImportError:\n    pass",
            heavy_imports,
        ),
        ("model/x.py", "x = y.to('cuda:0')", device_literals),
        ("model/x.py", "x = y.cuda()", device_literals),
        ("model/x.py", "print(3)", prints_and_exits),
        ("model/x.py", "import sys\nsys.exit(2)", prints_and_exits),
    ],
)
def test_rules_see_planted_breaches(where: str, source: str, rule: Callable[..., list[str]]) -> None:
    tree = ast.parse(source)
    found = breaches(PACKAGE / where, tree) if rule is breaches else rule(tree)
    assert found
