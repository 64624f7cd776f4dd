"""What the README says is so: commands parse, the library example runs, the table leads to code."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import idr
from idr.cli.demo import make_scene
from idr.conf.files import load_conf, read_block, save_conf
from idr.training.config import TrainConfig
from idr.training.rays.config import SamplerConfig
from idr.training.schedule.config import ScheduleConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PARSERS = {
    "training/exp_runner.py": "train",
    "training/run_scenes.py": "run_scenes",
    "evaluation/eval.py": "evaluate",
    "evaluation/eval_mesh.py": "eval_mesh",
    "evaluation/report.py": "report",
    "evaluation/summary.py": "summary",
    "evaluation/eval_disentanglement.py": "disentanglement",
    "evaluation/export_cameras.py": "export_cameras",
    "evaluation/export_mesh.py": "export_mesh",
    "evaluation/render_path.py": "render_path",
    "preprocess/preprocess_cameras.py": "preprocess_cameras",
    "preprocess/check_scene.py": "check_scene",
    "preprocess/doctor.py": "doctor",
    "preprocess/import_scene.py": "import_scene",
    "preprocess/make_demo_scene.py": "demo.make_scene",
    "viewer/serve.py": "view",
    "preprocess/photos.py": "photos.command",
    "preprocess/make_photo_scene.py": "demo.make_photo_scene",
}


def blocks(language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def command_lines() -> list[str]:
    joined = "\n".join(blocks()).replace("\\\n", " ")
    lines = re.sub(r"^torchrun --nproc_per_node=\d+ ", "python ", joined, flags=re.M).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("python ")]


def table_rows() -> list[tuple[str, str]]:
    return re.findall(r"\| `(code/idr/[\w/]+\.py)`: `(\w+)` \|", README)


def test_every_script_is_shown() -> None:
    assert {line.split()[1] for line in command_lines()} == set(PARSERS)


@pytest.mark.parametrize("line", command_lines())
def test_command_parses(line: str) -> None:
    words = shlex.split(line)
    module = importlib.import_module(f"idr.cli.{PARSERS[words[1]]}")
    build = getattr(module, "build_parser", None) or module._parser
    build().parse_args(words[2:])  # an unknown flag would end the process
    assert (ROOT / "code" / words[1]).is_file()
    for word in words:
        if word.endswith(".conf"):
            assert (ROOT / word).is_file(), word


def test_table_covers_the_equations() -> None:
    rows = re.search(r"## From the paper to the code\n(.*?)\n## ", README, flags=re.S)
    assert rows is not None
    lines = [
        line for line in rows[1].splitlines() if line.startswith("| ") and not line.startswith("| in the")
    ]
    assert len(lines) == len(table_rows())
    assert all(f"Eq. {number}" in rows[1] for number in (1, 2, 3))


@pytest.mark.parametrize(("path", "name"), table_rows())
def test_table_leads_to_code(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    defined = {n.name for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    assert name in defined


def test_confs_named_exist() -> None:
    for name in re.findall(r"`((?:dtu|demo)\w*\.conf)`", README):
        assert (ROOT / "confs" / name).is_file(), name


def test_the_recipe_is_read_and_every_key_of_its_table_is_one() -> None:
    (recipe,) = re.findall(r"^```\n(train \{.*?)^```", README, flags=re.M | re.S)
    train = {**load_conf(ROOT / "confs" / "fast.conf")["train"], **load_conf(recipe)["train"]}
    config = read_block(TrainConfig, train, "train")
    assert config.sampler.type == "importance" and config.schedule.param_groups.encoding is not None
    for owner, names in re.findall(r"^\| `train\.(?:(sampler|schedule)\.)?([^|]+?) \|", README, flags=re.M):
        block = {"sampler": SamplerConfig, "schedule": ScheduleConfig}.get(owner, TrainConfig)
        for name in re.findall(r"\w+", names):
            assert name in {field.name for field in fields(block)}, (owner, name)


def test_library_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 10
    scene = tmp_path / "data" / "demo" / "scan1"
    small = ["--img_res", "16", "20", "--views", "2", "--holdout", "0", "--mesh_resolution", "24"]
    assert make_scene.main(["--out", str(scene), *small]) == 0
    shipped = next((ROOT / "trained_models" / "demo_1").glob("*/checkpoints"))
    run = tmp_path / "exps" / "fast_1" / "2026"  # as `make demo` leaves it
    run.mkdir(parents=True)
    (run / "checkpoints").symlink_to(shipped)
    overrides = ("dataset.img_res=[16,20]", "dataset.holdout=[]", f"dataset.data_root={tmp_path / 'data'}")
    save_conf(load_conf("./confs/demo.conf", overrides), run / "runconf.conf")
    monkeypatch.chdir(tmp_path)

    values: dict = {}
    exec(example, values)
    assert np.abs(values["run"].sdf(values["points"])).max() < 0.01  # half a cell of the mesh's grid
    assert np.allclose(np.linalg.norm(values["normals"], axis=1), 1, atol=1e-4)
    assert ((values["colors"] >= 0) & (values["colors"] <= 1)).all()
    assert values["image"].rgb01.shape == (16, 20, 3) and values["image"].hit.any()
    assert values["idr"] is idr
