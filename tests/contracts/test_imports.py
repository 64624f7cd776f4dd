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
MAX_FILES = 16
"""Files of one folder."""

# The house has four floors. A unit is a file or a folder of idr/; `model.kernels` counts apart from `model`.
FLOORS: dict[str, tuple[str, ...]] = {
    "base": ("errors", "failures", "files", "places", "progress_bar", "replacing", "conf", "checkpoints"),
    "method": ("geometry", "fields", "rendering", "meshing", "model", "datasets", "training"),
    "kernels": ("model.kernels",),
    "tools": (
        "runs", "pictures", "evaluation", "preprocess", "importers", "export", "viewer", "many_scenes",
        "demo", "cli", "__init__",
    ),
}  # fmt: skip
LEAVES = {"errors", "failures", "files", "places", "progress_bar", "replacing"}
"""Units that anything may import."""
TABLE: dict[str, set[str]] = {
    "errors": set(),
    "failures": set(),
    "files": set(),
    "places": set(),
    "progress_bar": set(),
    "replacing": set(),
    "conf": set(),
    "checkpoints": set(),
    "geometry": set(),
    "fields": set(),
    "rendering": {"geometry"},
    "meshing": {"fields"},
    "model": {"checkpoints", "conf", "fields", "geometry"},
    "datasets": {"conf", "geometry"},
    "training": {"checkpoints", "conf", "datasets", "geometry", "model"},
    "model.kernels": {"fields", "geometry", "model"},
    "runs": {"checkpoints", "conf", "geometry", "meshing", "model", "rendering"},
    "pictures": {"geometry", "meshing", "rendering"},
    "evaluation": {"datasets", "export", "geometry", "meshing", "pictures", "rendering", "runs"},
    "preprocess": {"datasets", "geometry", "meshing", "pictures"},
    "importers": {"datasets", "geometry", "preprocess"},
    "export": {"geometry", "meshing", "rendering"},
    "viewer": {"conf", "evaluation", "export", "geometry", "runs"},
    "many_scenes": {"checkpoints", "runs", "training", "__init__"},
    "demo": {"evaluation", "geometry", "rendering", "runs"},
    "cli": {
        "checkpoints", "conf", "datasets", "demo", "evaluation", "export", "geometry", "importers",
        "many_scenes", "meshing", "model", "pictures", "preprocess", "runs", "training", "viewer", "__init__",
    },
    "__init__": {"runs"},
}  # fmt: skip
"""What each unit may import besides the leaves."""


def name_of(path: Path) -> str:
    """`idr.model.loss` for idr/model/loss.py, `idr.model` for its `__init__`."""
    return ".".join(path.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def unit_of(module: str) -> str:
    """`model` for idr.model.loss, `errors` for idr.errors, `__init__` for the package itself."""
    parts = module.split(".")
    if parts[1:3] == ["model", "kernels"]:
        return "model.kernels"
    if parts[1:] == ["__main__"]:
        return "cli"
    return parts[1] if len(parts) > 1 else "__init__"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules_of(node: ast.AST) -> list[str]:
    """Dotted modules that one import statement names; `from idr import conf` counts as idr.conf."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        named = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else node.module for name in named]
    return []


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every module of ours that a file imports, with the line: inside functions and for types, too."""
    for node in ast.walk(tree):
        for module in modules_of(node):
            if module.split(".")[0] == "idr":
                yield getattr(node, "lineno", 0), module


def breaches(path: Path, tree: ast.Module) -> list[str]:
    """Imports of one file that the table does not allow."""
    own = unit_of(name_of(path))
    if own not in TABLE:
        return [f"{path.name}: unit `{own}` is not in the import table"]
    return [
        f"{path.relative_to(CODE)}:{line}: {own} may not import {unit_of(module)}"
        for line, module in imports_of(tree)
        if unit_of(module) not in TABLE[own] | LEAVES | {own}
    ]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the sets of nodes that reach one another."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        reached[start] = seen
    found = {
        frozenset(other for other in reached[node] if node in reached.get(other, set()))
        for node in graph
        if node in reached[node]
    }
    return sorted(sorted(nodes) for nodes in found)


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
        and not (module.split(".")[0] == "idr" and unit_of(module) in LEAVES | {"cli"})
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
    if unit_of(name_of(path)) == "cli":
        assert heavy_imports(tree) == []
    else:
        assert device_literals(tree) == []
        assert prints_and_exits(tree) == []


def test_every_unit_stands_on_one_floor() -> None:
    units = [unit for floor in FLOORS.values() for unit in floor]
    assert sorted(units) == sorted(TABLE)
    assert {unit_of(module) for module in MODULES} == set(units)


def test_nothing_imports_upwards() -> None:
    floor = {unit: number for number, units in enumerate(FLOORS.values()) for unit in units}
    assert [(a, b) for a in TABLE for b in TABLE[a] if floor[b] > floor[a]] == []
    assert floor["errors"] == 0  # the leaves are below everything


def test_no_unit_and_no_module_imports_itself_by_way_of_others() -> None:
    modules = {name: {m for _, m in imports_of(parse(path))} - {name} for name, path in MODULES.items()}
    assert cycles(modules) == []
    units: dict[str, set[str]] = {unit: set() for unit in TABLE}
    for name, imported in modules.items():
        units[unit_of(name)] |= {unit_of(module) for module in imported} - {unit_of(name)}
    assert cycles(units) == []


def test_cycles_are_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


def test_no_folder_is_a_drawer() -> None:
    for folder in {path.parent for path in FILES}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MAX_FILES, folder


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
        ("model/x.py", "if TYPE_CHECKING:\n    from idr.model.kernels import inference", breaches),
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
