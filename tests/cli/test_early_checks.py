"""Mistakes that commands find before their first long step: packages, films, folders, points, weights."""

from __future__ import annotations

import builtins
import importlib
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trimesh
from tests.importers import writers

from idr.cli import (
    check_scene,
    disentanglement,
    eval_mesh,
    evaluate,
    export_mesh,
    import_scene,
    render_path,
    report,
    triangulate_points,
)
from idr.evaluation import perceptual

ON_CPU = ["--gpu", "ignore", "--device", "cpu"]
LONG = (
    "idr.runs.run.Run.surface", "idr.evaluation.reconstruction.render_image",
    "idr.export.path_frames.render_antialiased", "idr.preprocess.triangulation.triangulate",
    "idr.evaluation.chamfer.mesh_scores", "idr.preprocess.scene_check.check_scene",
    "idr.evaluation.report.page.write_report", "idr.importers.recognize.read_source",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the long steps fail as bugs."""

    def fail(*arguments: object, **keywords: object) -> NoReturn:
        raise AssertionError("a long step began before the checks")

    import idr.importers.scene_folder  # noqa: F401 - keeps the real check_scene

    for name in LONG:
        monkeypatch.setattr(name, fail)


def without_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes a package look as if it were not installed."""
    real, plain = importlib.import_module, builtins.__import__

    def import_module(module: str, *rest: Any) -> Any:
        if module == name:
            raise ImportError(name)
        return real(module, *rest)

    def import_statement(module: str, *rest: Any) -> Any:
        if module == name:
            raise ImportError(name)
        return plain(module, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(builtins, "__import__", import_statement)


@pytest.mark.parametrize(
    ("package", "flags", "texts"),
    [
        ("embreex", [], ["embreex", "pip install", "--colors normal"]),
        ("xatlas", ["--colors", "normal", "--texture", "64"], ["--texture needs xatlas", "pip install"]),
        ("fast_simplification", ["--colors", "none", "--faces", "9"], ["--faces needs", "pip install"]),
    ],
)
def test_a_package_is_missing(trained_project, monkeypatch, package, flags, texts):
    without_package(monkeypatch, package)
    conf = ["--conf", trained_project.conf, *ON_CPU]
    trained_project.refuses(export_mesh.main, *conf, *flags, texts=texts)


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (render_path.main, ["--video", "file/film.gif"]),
        (render_path.main, ["--video", "file/film.gif", "--outputs", "depth", "color"]),
        (render_path.main, ["--out", "file/frames"]),
        (disentanglement.main, ["--video", "file/film.gif"]),
        (export_mesh.main, ["--colors", "none", "--out", "file/mesh.glb"]),
        (report.main, ["--out", "file/report.html"]),
    ],
)
def test_a_result_cannot_be_written(trained_project, main, flags):
    file = trained_project.root / "file"
    file.write_text("kept")
    flags = [flag.replace("file/", f"{file}/") for flag in flags]
    texts = [f"cannot write {file}/", "a file stands where a folder is needed"]
    trained_project.refuses(main, "--conf", trained_project.conf, *ON_CPU, *flags, texts=texts)


def test_the_folder_of_the_results_is_a_file(trained_project):
    (trained_project.root / "evals").write_text("kept")
    conf = ["--conf", trained_project.conf, *ON_CPU]
    texts = ["cannot write", "a file stands where a folder is needed"]
    trained_project.refuses(evaluate.main, *conf, texts=texts)
    trained_project.refuses(export_mesh.main, *conf, "--colors", "none", texts=texts)
    trained_project.refuses(render_path.main, *conf, texts=texts)


def test_tools_on_a_scene_check_their_output(project):
    (project.root / "file").write_text("kept")
    out = f"{project.root}/file/x"
    for main in (check_scene.main, triangulate_points.main):
        project.refuses(main, "--source_dir", project.scene, "--out", out, texts=["cannot write", out])
    mesh = project.root / "box.ply"
    trimesh.creation.box().export(mesh)
    scores = [mesh, "--reference", mesh, "--out", out]
    project.refuses(eval_mesh.main, *scores, texts=["cannot write", out])


def test_weights_of_lpips_are_loaded_before_the_mesh(trained_project, monkeypatch, capsys):
    def no_weights(device: object) -> NoReturn:
        raise perceptual.WeightsUnavailable("no network")

    monkeypatch.setattr(perceptual, "load_lpips", no_weights)
    flags = ["--conf", str(trained_project.conf), *ON_CPU, "--eval_rendering", "--lpips"]
    with pytest.raises(AssertionError, match="long step"):
        evaluate.main(flags)
    assert "LPIPS is not measured: no network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--points", "{0}/no.npz"], "no point file {0}/no.npz"),
        (["--masks", "auto", "--mask_command", "p {{image}} {{mask}}"], "both --masks and --mask_command"),
        (["--rough_cameras", "--rough_degrees", "80"], "expected 0 to 45 degrees"),
        (["--out", "{0}/file/scan1"], "cannot write {0}/file/scan1/cameras.npz"),
    ],
)
def test_an_import_checks_its_flags_first(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writers.write_nerfstudio(tmp_path / "source", tmp_path / "masks")
    (tmp_path / "file").write_text("kept")
    argv = [str(tmp_path / "source"), "--out", str(tmp_path / "out" / "scan1")]
    assert import_scene.main([*argv, *(flag.format(tmp_path) for flag in flags)]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
