"""The demo on a small built-in scene: written, trained twice, meshed, rendered, evaluated, reported."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from idr.cli.demo import command as demo
from idr.cli.demo import make_scene


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    small = [
        "--img_res",
        "24",
        "30",
        "--views",
        "9",  # eight for training: fast.conf takes eight per step
        "--holdout",
        "1",
        "--supersampling",
        "2",
        "--mesh_resolution",
        "40",
    ]
    assert make_scene.main(["--out", str(folder / "data" / "demo" / "scan1"), *small]) == 0
    return folder


def figures(table: str, row: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(row)]
    return re.split(r"\s{2,}", line[len(row) :].strip())


def test_demo(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--out",
        str(root),
        "--nepoch",
        "2",
        "--nepoch_cameras",
        "2",
        "--resolution",
        "32",
        "--device",
        "cpu",
    ]
    assert demo.main(argv) == 0
    printed = capsys.readouterr().out

    psnr = [float(cell) for cell in figures(printed, "PSNR, training views (dB)")]
    assert (
        len(psnr) == 3 and psnr[2] > max(psnr[:2]) + 3
    )  # a few seconds of training stay far below the upper bound
    chamfer = [float(cell) for cell in figures(printed, "Chamfer (unit sphere)")]
    assert 0 < chamfer[0] < 0.5 and 0 < chamfer[1] < 0.5 and chamfer[2] == 0
    assert re.fullmatch(
        r"-\s+[\d.]+ -> [\d.]+\s+-", "  ".join(figures(printed, "camera rotations (degrees)"))
    )

    page = (root / "evals" / "demo_overview.html").read_text()
    assert "http" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)  # no external image or style
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']http", page)
    assert (
        page.count('<img src="data:image/png;base64,') == 3 * 4
    )  # 3 training views and 1 held-out view; photograph and two runs
    for name in ("fast_1", "fast_demo_trained_cameras_1"):
        (plain,) = (root / "evals" / name).glob("surface_world_coordinates_2.ply")
        colored = trimesh.load(root / "evals" / name / "mesh_2.glb", process=False, force="mesh")
        np.testing.assert_allclose(colored.extents.sum(), trimesh.load(plain).extents.sum(), rtol=0.25)
        assert f"{root / 'evals' / name / 'mesh_2.glb'}" in printed

    assert demo.main(argv) == 0  # finished steps are skipped
    assert "nothing to do: 2 epochs are done" in capsys.readouterr().out


def test_peek(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--peek", "--out", str(root), "--resolution", "48", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    # Few pixels: the network in trained_models/ was trained on this scene at 160 x 128 from other cameras.
    assert float(figures(printed, "PSNR, training views (dB)")[0]) > 15
    assert float(figures(printed, "Chamfer (unit sphere)")[0]) < 0.02
    assert "camera centers" not in printed and "training (minutes)" not in printed  # nothing was trained
    assert (root / "evals" / "peek" / "overview.html").is_file()


def test_notebook(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = nbformat.read(Path(__file__).parents[2] / "docs" / "demo.ipynb", as_version=4)
    nbformat.validate(page)
    cells = [cell for cell in page.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    monkeypatch.chdir(root)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names: dict[str, object] = {}
    exec(cells[0].source, names)
    assert (names["peek"], names["resolution"]) == (True, demo.PEEK_RESOLUTION)
    names |= {"out": str(root), "resolution": 32}
    shown = []
    for cell in cells[1:]:
        *statements, last = ast.parse(cell.source).body
        exec(compile(ast.Module(statements, []), "cell", "exec"), names)
        is_shown = isinstance(last, ast.Expr)
        shown.append(eval(ast.unparse(last), names) if is_shown else exec(ast.unparse(last), names))
    picture, figure = shown[-2:]
    assert isinstance(picture, Image.Image) and np.asarray(picture).std() > 5
    mesh = names["mesh"]
    assert isinstance(mesh, trimesh.Trimesh) and len(figure.data[0].x) == len(mesh.vertices) > 500


def plans(*argv: str) -> list[demo.Plan]:
    return demo._plans(demo.build_parser().parse_args(argv), torch.device("cpu"))


def test_published_flag_chooses_the_published_networks() -> None:
    confs = [plan.conf for plan in plans("--published", "--nepoch", "7")]
    assert confs == ["./confs/demo.conf", "./confs/demo_trained_cameras.conf"]
    assert [plan.num_epochs for plan in plans("--published", "--nepoch", "7")] == [7, 200]
    assert [plan.conf for plan in plans()] == ["./confs/fast.conf", "./confs/fast_demo_trained_cameras.conf"]
    assert plans("--nepoch", "7")[0].num_epochs == 7


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idr.model.twins.find_kernel", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'idr-surface\[fast\]', or .* with --published"):
        plans()
    assert len(plans("--published")) == 2


@pytest.mark.parametrize(
    "flag, value, least", [("nepoch", 0, 1), ("nepoch_cameras", 0, 1), ("resolution", 15, 16)]
)
def test_wrong_numbers(flag: str, value: int, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([f"--{flag}", str(value)]) == 2
    assert capsys.readouterr().err == f"error: --{flag} {value}: expected {least} or more\n"
