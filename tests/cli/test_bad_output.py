"""Results that cannot be written: the message names path and reason, and no partial result remains.

Tests may run as root, whom no permission stops: a file stands where a folder is needed, or the system's
calls refuse.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.bad_input import EVALUATE, TRAIN, only_run

from idr.cli.check_scene import main as check_scene
from idr.cli.demo.make_scene import main as make_scene
from idr.cli.disentanglement import main as disentangle
from idr.cli.evaluate import main as evaluate
from idr.cli.preprocess_cameras import main as preprocess
from idr.cli.train import main as train

IN_THE_WAY = ["cannot write", "file", "move it away, or write to another folder"]
SMALL_SCENE = (
    "--views",
    "2",
    "--holdout",
    "0",
    "--img_res",
    "8",
    "8",
    "--supersampling",
    "1",
    "--mesh_resolution",
    "16",
)


def refusing(call: Callable, folder: Path, number: int) -> Callable:
    """Returns a system call that fails for paths below a folder."""

    def refuse(path, *arguments, **options):
        writes = call is not os.open or bool(arguments and arguments[0] & (os.O_WRONLY | os.O_RDWR))
        if writes and folder in (Path(path), *Path(path).parents):
            raise OSError(number, os.strerror(number), str(path))
        return call(path, *arguments, **options)

    return refuse


@pytest.fixture
def read_only(monkeypatch):
    """Makes a folder read-only, or its disk full, for everything that this process writes through `os`."""

    def protect(folder: Path, number: int = errno.EROFS) -> None:
        for name in ("open", "mkdir", "replace", "rename", "unlink"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name), folder, number))

    return protect


@pytest.mark.parametrize("folder", ["tiny.conf", "tiny.conf/exps"])
def test_training_with_a_file_in_place_of_the_folder(project, folder):
    project.refuses_to_train("--exps_folder", folder, texts=[f"{project.root / 'tiny.conf'}", *IN_THE_WAY])


@pytest.mark.parametrize(
    "number, texts",
    [
        (errno.EACCES, ["permission denied", "change the folder's permissions, or write to another folder"]),
        (errno.EROFS, ["read-only file system", "write to another folder"]),
        (errno.ENOSPC, ["no space left on device", "free some space there"]),
    ],
)
def test_training_with_a_failing_system_call(project, read_only, number, texts):
    read_only(project.root / "exps", number)
    project.refuses_to_train(texts=[f"cannot write {project.root / 'exps'}", *texts])


def test_continuing_in_a_read_only_run_keeps_the_last_checkpoint(trained_project, read_only, monkeypatch):
    run = only_run(trained_project.root)
    read_only(run)
    flags = (*TRAIN, "--nepoch", "2", "--is_continue")
    trained_project.refuses(train, *flags, texts=["cannot write", str(run), "read-only file system"])
    monkeypatch.undo()
    assert trained_project.run(evaluate, *EVALUATE, "--checkpoint", "1").status == 0


def test_evaluation_with_a_file_in_place_of_the_folder(trained_project):
    (trained_project.root / "evals").write_text("")
    texts = [str(trained_project.root / "evals"), *IN_THE_WAY]
    trained_project.refuses(evaluate, *EVALUATE, texts=texts)


def test_evaluation_with_a_failing_system_call(trained_project, read_only):
    read_only(trained_project.root / "evals", errno.EACCES)
    texts = [
        f"cannot write {trained_project.root / 'evals'}",
        "permission denied",
        "change the folder's permissions",
    ]
    trained_project.refuses(evaluate, *EVALUATE, "--eval_rendering", texts=texts)


def test_disentanglement_with_a_file_in_place_of_the_folder(trained_project):
    (trained_project.root / "evals_disentanglement").write_text("")
    run = str(only_run(trained_project.root))
    flags = ("--geometry_run", run, "--appearance_run", run, "--checkpoint", "latest", "--frames", "1")
    texts = [str(trained_project.root / "evals_disentanglement"), *IN_THE_WAY]
    trained_project.refuses(
        disentangle, "--conf", "tiny.conf", "--gpu", "ignore", "--device", "cpu", *flags, texts=texts
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_preprocessing_of_a_read_only_scene(project, read_only, number):
    read_only(project.scene, number)
    texts = ["cannot write", "cameras", os.strerror(number).lower()]
    project.refuses(preprocess, "--source_dir", project.scene, texts=texts)


def test_check_images_with_a_file_in_place_of_the_folder(project):
    texts = [str(project.conf), *IN_THE_WAY]
    project.refuses(check_scene, "--source_dir", project.scene, "--out", project.conf, texts=texts)


def test_built_in_scene_with_a_file_in_place_of_the_folder(project):
    texts = [str(project.conf), *IN_THE_WAY]
    project.refuses(make_scene, *SMALL_SCENE, "--out", project.conf / "scan1", texts=texts)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_built_in_scene_never_replaces_a_foreign_folder(project, force):
    texts = [str(project.scene), "was not written by this command", "choose another --out"]
    project.refuses(make_scene, *SMALL_SCENE, "--out", project.scene, *force, texts=texts)
