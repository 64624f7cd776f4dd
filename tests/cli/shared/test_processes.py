"""The scripts as a user starts them: as processes, from code/, uninstalled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.bad_input import CONF, snapshot

CODE = Path(__file__).resolve().parents[3] / "code"
HEAVY = ("torch", "numpy", "scipy", "pyhocon", "imageio", "cv2", "trimesh", "plotly")

# Script, and arguments that fail after parsing; {0} is an empty folder.
CASES = {
    "training/exp_runner.py": (
        "--conf {0}/tiny.conf --data_root {0}/data --exps_folder {0}/exps --gpu ignore --device cpu",
        "error: no data folder {0}/data/balls; ",
    ),
    "evaluation/eval.py": (
        "--conf {0}/tiny.conf --exps_folder {0}/exps --gpu ignore --device cpu",
        "error: no folder of runs {0}/exps",
    ),
    "evaluation/eval_disentanglement.py": (
        "--conf {0}/tiny.conf --geometry_run {0}/exps/a --appearance_run {0}/exps/b --gpu ignore",
        "error: no run folder {0}/exps/a",
    ),
    "preprocess/preprocess_cameras.py": ("--source_dir {0}/scan3", "error: no scene folder {0}/scan3; "),
    "preprocess/check_scene.py": ("--source_dir {0}/scan3", "error: no scene folder {0}/scan3; "),
    "preprocess/make_demo_scene.py": ("--out {0}/tiny.conf", "error: {0}/tiny.conf is a file; "),
}
scripts = pytest.mark.parametrize("script", CASES)


def start(script: str, *arguments: str, python: tuple[object, ...]) -> subprocess.CompletedProcess[str]:
    """Runs a script from code/, with an interpreter and its options."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [*map(str, python), script, *arguments]
    return subprocess.run(command, cwd=CODE, env=environment, capture_output=True, text=True, timeout=120)


def imported(importtime: str) -> set[str]:
    """Returns the top-level modules that ``-X importtime`` lists."""
    return {
        line.rpartition("|")[2].strip().partition(".")[0] for line in importtime.splitlines() if "|" in line
    }


@scripts
def test_help_comes_before_any_heavy_import(script):
    done = start(script, "-h", python=(sys.executable, "-X", "importtime"))
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ") and "examples:" in done.stdout
    modules = imported(done.stderr)
    assert {"argparse", "idr"} <= modules  # the list is complete
    assert modules.isdisjoint(HEAVY)


@scripts
def test_wrong_flag_is_refused_before_any_heavy_import(script):
    done = start(script, "--no_such_flag", python=(sys.executable, "-X", "importtime"))
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(r"error: .*(--no_such_flag|--source_dir)", done.stderr)
    assert imported(done.stderr).isdisjoint(HEAVY)


@scripts
def test_mistake_gives_one_message_and_status_2(script, tmp_path, warm_python):
    (tmp_path / "tiny.conf").write_text(CONF)
    before = snapshot(tmp_path)
    flags, message = (text.format(tmp_path) for text in CASES[script])
    done = start(script, *flags.split(), python=(warm_python,))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr
    assert snapshot(tmp_path) == before
