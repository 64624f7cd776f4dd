"""The kernels are optional: without their folder, or without numba, everything works and returns the same.

Each case runs `small_run.py` in a process of its own: training, evaluation, an image and a mesh.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.test_imports import FILES, name_of

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("small_run.py")
TOLERANCES = {"losses": 1e-5, "sdf": 1e-6, "gradient": 1e-4, "rgb": 1e-4, "vertices": 1e-5}
"""Relative to the largest number. Float32's rounding of 6e-8 adds up over layers; the curvature of softplus,
up to 100, multiplies it in gradients, and normals pass it on to colors. A vertex divides f by its slope."""


def run_python(python: Path, code_folder: Path, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{code_folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def code_without_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without the folder."""
    code = tmp_path_factory.mktemp("code")
    shutil.copytree(
        ROOT / "code" / "idr", code / "idr", ignore=shutil.ignore_patterns("kernels", "__pycache__")
    )
    return code


@pytest.fixture(scope="module")
def results(
    code_without_kernels: Path, warm_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Results with kernels, without the folder, and with the folder but without numba."""
    pytest.importorskip("numba", reason="the extra idr-surface[fast] is not installed")
    folder = tmp_path_factory.mktemp("results")
    runs: dict[str, tuple[Path, tuple[str, ...]]] = {
        "kernels": (ROOT / "code", ()),
        "no folder": (code_without_kernels, ()),
        "no numba": (ROOT / "code", ("--without-numba",)),
    }
    for name, (code, flags) in runs.items():
        run_python(warm_python, code, SCRIPT, folder / name, *flags)
    loaded: dict[str, Any] = {name: torch.load(folder / name, weights_only=True) for name in runs}
    return loaded


def test_each_run_has_the_kernels_that_it_should(results: dict[str, Any], code_without_kernels: Path) -> None:
    assert Path(results["no folder"]["file"]).is_relative_to(code_without_kernels)
    assert results["no folder"]["kernels"] == []
    assert "idr.model.kernels.inference" in results["no numba"]["kernels"]
    traced = "strategy = compiled: training rays are traced by "
    for name in results:
        loops = [text for text in results[name]["messages"] if text == f"{traced}compiled loops"]
        grids = [text for text in results[name]["messages"] if "hash grid: computed by numba" in text]
        assert len(loops) == len(grids) == (name == "kernels"), name


@pytest.mark.parametrize("encoding", ["sinusoids", "hashgrid"])
@pytest.mark.parametrize("run", ["no folder", "no numba"])
def test_results_are_equal_up_to_rounding(results: dict[str, Any], run: str, encoding: str) -> None:
    found, expected = (results[name][f"{encoding} accelerated"] for name in (run, "kernels"))
    assert 10 < int(expected["hit"].sum()) < 246 and len(expected["faces"]) > 100
    assert torch.equal(found["hit"], expected["hit"]) and torch.equal(found["faces"], expected["faces"])
    for name, tolerance in TOLERANCES.items():
        assert (found[name] - expected[name]).abs().max() <= tolerance * expected[name].abs().max(), name


@pytest.mark.parametrize("encoding", ["sinusoids", "hashgrid"])
@pytest.mark.parametrize("run", ["no folder", "no numba"])
def test_the_compiled_strategy_without_loops_is_the_accelerated_one(
    results: dict[str, Any], run: str, encoding: str
) -> None:
    """The loops end rays that miss elsewhere; without them both strategies are equal to the last bit."""
    compiled, accelerated = (
        results[run][f"{encoding} {strategy}"] for strategy in ("compiled", "accelerated")
    )
    for name, values in accelerated.items():
        assert torch.equal(compiled[name], values), name


def test_every_module_can_be_imported(code_without_kernels: Path, warm_python: Path) -> None:
    names = [name_of(path) for path in FILES if not name_of(path).startswith("idr.model.kernels")]
    assert len(names) > 100
    run_python(warm_python, code_without_kernels, "-c", "".join(f"import {name}\n" for name in names))
