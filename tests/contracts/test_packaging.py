"""The installed package: one list of dependencies, no libGL, existing commands, no missing folder."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from idr.cli.shared.commands import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:  # a dependency of pytest there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
IMPORT_NAMES = {
    "opencv-python-headless": "cv2",
    "scikit-image": "skimage",
    "pillow": "PIL",
    "imageio-ffmpeg": "imageio_ffmpeg",
    "pillow-heif": "pillow_heif",
    "fast-simplification": "fast_simplification",
}
NAMES_EXTRAS = ("code/**/*.py", "confs/**/*.conf", "docs/*.md", "*.md")
DEPENDENCY_OF_A_DEPENDENCY = {"markupsafe", "pyparsing", "triton", "websockets"}
"""Jinja2's escaped text, the parser of pyhocon, whose exceptions it raises, torch's compiler of kernels for a
GPU, which only its own backend needs, and the server of viser."""
SCRIPTS = {
    "idr", "idr-train", "idr-eval", "idr-eval-disentanglement", "idr-preprocess-cameras", "idr-check-scene",
    "idr-make-demo-scene", "idr-demo", "idr-run-scenes", "idr-import", "idr-report",
    "idr-export-mesh", "idr-export-cameras", "idr-render-path",
    "idr-eval-mesh", "idr-doctor", "idr-triangulate-points", "idr-summary", "idr-photos",
    "idr-make-photo-scene", "idr-view",
}  # fmt: skip


def environment() -> tuple[list[str], list[str]]:
    """Returns the conda and the pip entries of environment.yml, read by lines."""
    text = (ROOT / "environment.yml").read_text()
    entries = re.findall(r"^( *)- (\S.*?)\s*$", text[text.index("dependencies:") :], re.MULTILINE)
    outer = min(len(indent) for indent, _ in entries)
    conda = [entry for indent, entry in entries if len(indent) == outer and entry != "pip:"]
    return conda, [entry for indent, entry in entries if len(indent) > outer]


def name_of(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return match[0].lower()


def test_environment_equals_pyproject() -> None:
    conda, pip = environment()
    assert pip[-1] == "-e ."
    assert pip[:-1] == PROJECT["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]


def test_supported_versions() -> None:
    assert PROJECT["requires-python"] == ">=3.10"  # no upper bound: it would outlast its reason
    assert {"torch>=2.6", "torchvision>=0.21", "numpy>=1.26"} <= set(PROJECT["dependencies"])


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_satisfy_every_requirement(python: str) -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    read = [Requirement(line) for line in lines]
    read = [each for each in read if each.marker is None or each.marker.evaluate({"python_version": python})]
    pins = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in read}
    assert len(pins) == len(read) and all(re.fullmatch(r"[\w.]+", version) for version in pins.values())
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(entry for extra in extras.values() for entry in extra)]:
        wanted = Requirement(text)
        if wanted.name == PROJECT["name"]:
            assert wanted.extras <= set(extras), text
        else:
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text


def test_extras_are_named_in_one_form() -> None:
    extras = PROJECT["optional-dependencies"]
    old = re.compile(rf"\b(?:idr|-e '?\.)\[(?:{'|'.join(set(extras) - {'dev', 'photos'})})\b")
    named = set()
    for path in (path for pattern in NAMES_EXTRAS for path in ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        assert not old.search(text), f"{path}: expected pip install '{PROJECT['name']}[...]'"
        for found in re.findall(r"idr-surface\[([a-z,]+)\]", text):
            named |= set(found.split(","))
    assert {"fast", "mesh", "video"} <= named <= set(extras)


def test_everything_imported_is_declared() -> None:
    extras = [
        entry for name, extra in PROJECT["optional-dependencies"].items() if name != "dev" for entry in extra
    ]
    declared = {name_of(entry) for entry in PROJECT["dependencies"] + extras}
    importable = {IMPORT_NAMES.get(name, name) for name in declared} | DEPENDENCY_OF_A_DEPENDENCY
    for path in sorted((ROOT / "code").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in (name.split(".")[0] for name in names):
                assert name in importable | {"idr"} or name in sys.stdlib_module_names, f"{path}: {name}"


def test_one_cv2_and_it_is_the_headless_one() -> None:
    installed = {str(dist.metadata["Name"]).lower() for dist in importlib.metadata.distributions()}
    every = {
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
        "opencv-python-headless",
    }
    assert installed & every == {"opencv-python-headless"}
    listed = {name_of(entry) for entry in PROJECT["dependencies"]} | {
        name_of(entry) for entry in environment()[1]
    }
    assert listed & every == {"opencv-python-headless"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="loaded libraries are listed on Linux only")
def test_importing_cv2_loads_no_libgl() -> None:
    program = "import cv2, sys; cv2.circle; sys.stdout.write(open('/proc/self/maps').read())"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "cv2" in loaded
    assert not re.search(r"libGL|libEGL|libQt|libX11", loaded)


def test_commands_point_at_main_functions() -> None:
    former = {f"idr-{command.former}" for command in COMMANDS.values() if command.former}
    assert set(PROJECT["scripts"]) == SCRIPTS == {"idr"} | former
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        tree = ast.parse((ROOT / "code" / Path(*module.split("."))).with_suffix(".py").read_text())
        mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert len(mains) == 1, target
        arguments = mains[0].args
        assert len(arguments.args) == len(arguments.defaults) == 1, f"{target}: main(argv=None) is expected"
        assert mains[0].returns is not None and ast.unparse(mains[0].returns) == "int", target
        last = 'if __name__ == "__main__":\n    raise SystemExit(main())'
        assert ast.unparse(tree.body[-1]) == ast.unparse(ast.parse(last)), f"python -m {module} does nothing"


def test_every_folder_of_the_package_is_installed() -> None:
    package = ROOT / "code" / "idr"
    for path in package.rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), (
            f"{path.parent} has no __init__.py: it would be left out"
        )
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"] == {"where": ["code"], "include": ["idr*"]}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Makefile", '$(if $(TORCH_INDEX_URL),--index-url "$$TORCH_INDEX_URL")'),
        ("Dockerfile", '${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}'),
    ],
)
def test_the_same_torch_is_installed(name: str, index: str) -> None:
    text = (ROOT / name).read_text()
    torch = {entry for entry in PROJECT["dependencies"] if name_of(entry) in ("torch", "torchvision")}
    assert set(re.findall(r"'(torch[^']*)'", text)) == torch
    assert index in text


def test_hosted_ci_runs_every_python_of_the_classifiers() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    classifiers = "\n".join(PROJECT["classifiers"])
    pythons = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.M)
    assert f"python: {pythons}".replace("'", '"') in text and len(pythons) == 4
    assert re.findall(r"run: (.*)", text) == ["make lint", "make test"]


def test_docker_runs_a_declared_command_as_a_user() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["idr"]' in lines and lines.index("USER idr") < lines.index('ENTRYPOINT ["idr"]')
    extras = re.findall(r"\*\.whl\)\[(\w+)\]", "\n".join(lines))
    assert extras and set(extras) <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(
    "name",
    [
        "Makefile", ".ci/run", "environment.yml", "pyproject.toml", ".pre-commit-config.yaml", "setup.py",
        "constraints.txt", "Dockerfile", ".github/workflows/ci.yml",
    ],
)  # fmt: skip
def test_no_host_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    for url in PROJECT["urls"].values() if name == "pyproject.toml" else ():
        text = text.replace(f'"{url}"', "")
    assert not re.search(r"https?://|\w+\.(org|com|io)\b", text)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("setup", "-m pip install -e ."), ("test", "-m pytest"), ("lint", "mypy"),
        ("demo", "-m idr.cli.demo.command"), ("peek", "-m idr.cli.demo.command --peek"),
        ("clean", "__pycache__"), ("help", "awk"),
    ],
)  # fmt: skip
def test_make_targets(target: str, last: str) -> None:
    command = ["make", "--always-make", "--dry-run", "VENV=.no-such-folder", target]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert last in plan
    order = [plan.index(step) for step in ("-m venv", "'torch>=", "pip install -e .") if step in plan]
    assert order == sorted(order) and (len(order) == 3 or target in ("clean", "help"))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize(
    "name",
    [
        "a $b; c", "it's \"mine\"", "$(shell touch shot)", "$$x `touch shot` ${HOME}", "-x #1 \\", "a),b\nc",
        "caf\u00e9",
    ],
)  # fmt: skip
def test_make_passes_names_unharmed(tmp_path, name, how):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / ".installed-scene").touch()
    python = venv / "bin" / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > {tmp_path}/arguments\n")
    python.chmod(0o755)
    given = {"PHOTOS": name, "MINUTES": "1; touch shot"}
    command = ["make", "-f", ROOT / "Makefile", "scene", f"VENV={venv}", "-o", f"{venv}/.installed-scene"]
    command += [f"{key}={value}" for key, value in given.items()] if how == "argument" else []
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "arguments").read_bytes().decode().split("\0")[:-1]
    assert words == ["-m", "idr.cli.photos.command", "--max_minutes", given["MINUTES"], "--", name]
    assert not (tmp_path / "shot").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_names_a_missing_python() -> None:
    done = subprocess.run(
        ["make", "setup", "VENV=.no-such-folder", "PYTHON=no-such-python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "no-such-python is missing or not Python 3.10 or newer" in done.stderr
    assert not (ROOT / ".no-such-folder").exists()


def test_ci_runs_linters_and_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert [line for line in script.read_text().splitlines() if line.startswith("make")] == [
        "make lint",
        "make test",
    ]


def test_license_is_mit() -> None:
    assert (PROJECT["license"], PROJECT["license-files"]) == ("MIT", ["LICENSE"])
    assert not [line for line in PROJECT["classifiers"] if line.startswith("License")]  # refused beside SPDX
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
