"""Runs and checkpoints that do not fit: training goes on from none of them, and nothing evaluates them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.bad_input import (
    EVALUATE,
    NUM_VIEWS,
    TRAIN,
    Project,
    camera_matrices,
    cut_short,
    only_run,
    rewrite_npz,
    save_files,
)

from idr.cli.disentanglement import main as disentangle
from idr.cli.evaluate import main as evaluate
from idr.cli.train import main as train

MODEL_FILE = "checkpoints/ModelParameters"

CONTINUE = (*TRAIN[:3], "2", *TRAIN[4:], "--is_continue")  # one epoch more
DISENTANGLE = (
    "--conf",
    "tiny.conf",
    "--device",
    "cpu",
    "--gpu",
    "ignore",
    "--checkpoint",
    "latest",
    "--frames",
    "1",
)


def reader(project: Project, name: str) -> tuple[Callable, list[str]]:
    """A command that reads checkpoints, with its flags."""
    if name == "train":
        return train, list(CONTINUE)
    if name == "eval":
        return evaluate, list(EVALUATE)
    runs = ["--geometry_run", str(only_run(project.root)), "--appearance_run", str(only_run(project.root))]
    return disentangle, [*DISENTANGLE, *runs]


readers = pytest.mark.parametrize("command", ["train", "eval", "disentanglement"])


# ---- files


@readers
def test_cut_short(trained_project, command):
    for path in (only_run(trained_project.root) / MODEL_FILE).iterdir():
        cut_short(path)
    main, flags = reader(trained_project, command)
    texts = [f"{MODEL_FILE}/1.pth", "damaged", "no other good checkpoint", "train again"]
    trained_project.refuses(main, *flags, texts=texts)


@readers
def test_another_good_checkpoint_is_named(trained_project, command):
    assert trained_project.run(train, *CONTINUE).status == 0
    cut_short(only_run(trained_project.root) / MODEL_FILE / "2.pth")
    main, flags = reader(trained_project, command)
    flags += ["--checkpoint", "2"]
    trained_project.refuses(main, *flags, texts=[f"{MODEL_FILE}/2.pth", "damaged", "use --checkpoint 1"])


class Payload:
    """Makes a folder when a pickle of it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@readers
@pytest.mark.parametrize("part", ["ModelParameters", "CamParameters"])
@pytest.mark.parametrize("old_format", [False, True])
def test_file_that_would_run_code_is_refused_and_runs_nothing(trained_project, command, part, old_format):
    """In a folder without manifests, as published runs come from elsewhere."""
    run = only_run(trained_project.root)
    good = torch.load(run / MODEL_FILE / "1.pth", weights_only=True)
    main, flags = reader(trained_project, command)
    shutil.rmtree(run / "checkpoints")
    save_files(run, {"ModelParameters": good}, "1")
    ran = trained_project.root / "ran"
    path = run / "checkpoints" / part / "1.pth"
    path.parent.mkdir(exist_ok=True)
    content = {**good, "pose_vecs_state_dict": {"weight": torch.zeros(6, 7)}, "extra": Payload(ran)}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    trained_project.refuses(
        main, *flags, texts=[str(path), "refused", "would run code", "mkdir", "people you trust"]
    )
    assert not ran.exists()
    torch.load(path, weights_only=False)  # the trap was armed
    assert ran.exists()


@readers
def test_no_checkpoint_file_at_all(trained_project, command):
    """Text where a checkpoint is expected."""
    run = only_run(trained_project.root)
    main, flags = reader(trained_project, command)
    shutil.rmtree(run / "checkpoints")
    save_files(run, {"ModelParameters": {}}, "1")
    path = run / MODEL_FILE / "1.pth"
    path.write_text("moved to another server")
    trained_project.refuses(main, *flags, texts=[str(path), "damaged, or no checkpoint file (23 bytes)"])
    torch.save([1, 2], path)
    trained_project.refuses(main, *flags, texts=[str(path), "is no ModelParameters file", "model_state_dict"])


@readers
@pytest.mark.parametrize("weights", [5, {"implicit_network.lin0.bias": [0.0]}], ids=["number", "lists"])
def test_weights_that_are_no_tensors(trained_project, command, weights):
    run = only_run(trained_project.root)
    main, flags = reader(trained_project, command)
    shutil.rmtree(run / "checkpoints")
    save_files(run, {"ModelParameters": {"epoch": 1, "model_state_dict": weights}}, "1")
    trained_project.refuses(main, *flags, texts=["checkpoint 1", "holds no model_state_dict of tensors"])


@readers
@pytest.mark.parametrize(
    "change, key",
    [
        ("model.implicit_network.dims=[16,20]", "implicit_network.lin1."),
        ("model.implicit_network.dims=[16,16,16]", "implicit_network.lin"),
        ("model.implicit_network.weight_norm=False", "implicit_network.lin0.weight"),
        ("model.rendering_network.multires_view=0", "rendering_network.lin0."),
    ],
)
def test_checkpoint_of_another_architecture(trained_project, command, change, key):
    main, flags = reader(trained_project, command)
    texts = ["another architecture", key, "conf"]
    trained_project.refuses(main, *flags, "--set", change, texts=texts)


def test_training_goes_on_only_with_the_right_images(trained_project):
    """Trained cameras belong to images."""
    assert trained_project.train("--train_cameras", "--expname", "cams").status == 0
    flags = (*CONTINUE, "--train_cameras", "--expname", "cams", "--set", "dataset.holdout=[2]")
    trained_project.refuses(
        train, *flags, texts=["holds cameras of 6 images, the scene has 5", "dataset.holdout"]
    )
    texts = ["6 trained cameras but the scene has 5 training images", "dataset.holdout"]
    flags = (*EVALUATE, "--expname", "cams", "--set", "dataset.holdout=[2]")
    trained_project.refuses(evaluate, *flags, texts=texts)


def test_cameras_cannot_join_a_run_that_had_none(trained_project):
    texts = ["holds no trained cameras (CamParameters)", "without --train_cameras"]
    trained_project.refuses(train, *CONTINUE, "--train_cameras", texts=texts)
    texts = ["--eval_cameras", "no trained cameras (CamParameters)", "train with --train_cameras"]
    trained_project.refuses(evaluate, *EVALUATE, "--eval_cameras", texts=texts)


# ---- runs


def test_latest_skips_runs_without_a_checkpoint(trained_project):
    good = only_run(trained_project.root)
    for name in ("2999_01_01_00_00_00", "zz_notes"):
        (good.parent / name / "checkpoints" / "ModelParameters").mkdir(parents=True)
    outcome = trained_project.run(evaluate, *EVALUATE)
    assert outcome.status == 0, outcome.err
    assert f"run: {good}\n" in outcome.out
    outcome = trained_project.run(train, *CONTINUE)
    assert outcome.status == 0, outcome.err
    assert f"run: {good}\n" in outcome.out and "continuing from checkpoint 1 (epoch 1, step 0)" in outcome.out


def test_latest_run_is_the_last_in_name_order_whatever_its_name(trained_project):
    good = only_run(trained_project.root)
    shutil.copytree(good, good.with_name("2020"))  # "2020" < "2026_...": not the latest
    assert f"run: {good}\n" in trained_project.run(evaluate, *EVALUATE).out
    shutil.copytree(good, good.with_name("paper"))
    assert f"run: {good.with_name('paper')}\n" in trained_project.run(evaluate, *EVALUATE).out
    outcome = trained_project.run(evaluate, *EVALUATE, "--timestamp", "2020")
    assert f"run: {good.with_name('2020')}\n" in outcome.out


@pytest.mark.parametrize("empty_run", [False, True])
def test_continuing_without_a_run_starts_from_scratch_and_says_so(project, empty_run):
    if empty_run:
        (project.root / "exps" / "tiny_3" / "2020" / "checkpoints").mkdir(parents=True)
    outcome = project.run(train, *TRAIN, "--is_continue")
    assert outcome.status == 0, outcome.err
    assert "nothing to continue from, starting from scratch: no run in " in outcome.out
    assert "tiny_3 holds a checkpoint" in outcome.out and "train first" not in outcome.out
    assert "done: 1 epochs" in outcome.out


@pytest.mark.parametrize(
    "main, flags, texts",
    [
        (train, (*CONTINUE, "--timestamp", "2019"), ["no run 2019", "runs there: 20", "--timestamp"]),
        (
            train,
            (*CONTINUE, "--checkpoint", "7"),
            ["tiny_3 holds checkpoint 7", "runs there: 20", "choose another"],
        ),
        (evaluate, (*EVALUATE, "--timestamp", "2019"), ["no run 2019", "runs there: 20", "--timestamp"]),
        (evaluate, (*EVALUATE, "--checkpoint", "7"), ["tiny_3 holds checkpoint 7", "runs there: 20"]),
        (evaluate, (*EVALUATE, "--expname", "x"), ["no run tinyx_3", "did you mean tiny_3?", "--expname"]),
        (evaluate, (*EVALUATE, "--scan_id", "65"), ["no run tiny_65", "runs there: tiny_3", "--scan_id"]),
        (evaluate, (*EVALUATE, "--exps_folder", "runs"), ["no folder of runs", "/runs", "--exps_folder"]),
        (disentangle, DISENTANGLE, ["no run tiny_65", "trained_models", "train first"]),
        (
            disentangle,
            (*DISENTANGLE, "--geometry_run", "exps/nix"),
            ["no run folder exps/nix", "checkpoints/"],
        ),
    ],
)
def test_runs_that_are_not_there(trained_project, main, flags, texts):
    trained_project.refuses(main, *flags, texts=texts)


def test_named_checkpoint_that_is_not_there_lists_those_that_are(trained_project):
    run = only_run(trained_project.root)
    flags = ("--timestamp", run.name, "--checkpoint", "7")
    texts = ["checkpoint 7 in", "does not exist", "complete checkpoints there: 0, 1", "choose one of these"]
    trained_project.refuses(train, *CONTINUE, *flags, texts=texts)
    trained_project.refuses(evaluate, *EVALUATE, *flags, texts=texts)


def test_scene_that_is_gone_since_training(trained_project):
    shutil.rmtree(trained_project.root / "data")
    for command in ("train", "eval", "disentanglement"):
        main, flags = reader(trained_project, command)
        trained_project.refuses(main, *flags, texts=["no data folder", "data/balls", "--data_root"])


def move_unit_sphere(project: Project, name: str) -> None:
    """Does what ``preprocess_cameras.py`` does to a scene: another scale_mat for all views."""
    matrices = camera_matrices([np.eye(4)] * NUM_VIEWS)
    moved = {key: value * [[1.1], [1.1], [1.1], [1]] for key, value in matrices.items() if "scale" in key}
    rewrite_npz(project.scene / name, **moved)


@readers
def test_scene_whose_unit_sphere_moved_since_training(trained_project, command):
    move_unit_sphere(trained_project, "cameras.npz")
    main, flags = reader(trained_project, command)
    texts = ["checkpoint 1", "radius 120; ", "radius 132 ", "preprocess_cameras.py", "cameras_backup.npz"]
    trained_project.refuses(main, *flags, texts=texts)


def test_trained_cameras_bring_their_own_frame(project):
    assert project.train("--train_cameras").status == 0
    move_unit_sphere(project, "cameras.npz")
    assert project.run(evaluate, *EVALUATE, "--eval_cameras").status == 0
    assert project.run(train, *CONTINUE, "--train_cameras").status == 0


@pytest.mark.parametrize(
    "flags, texts",
    [
        (("--frames", "0"), ["--frames 0", "expected 1 or more"]),
        (("--view", "6"), ["--view 6", "training views 0 to 5"]),
        (("--key_views", "0", "9"), ["9", "0 to 5"]),
        (("--key_views", "0", "1", "--key_times", "0"), ["got 2 --key_views, 1 --key_times", "same number"]),
        (("--img_res", "0", "8"), ["--img_res", "at least 1"]),
        (("--video", "turn.xyz"), ["turn.xyz", ".gif", ".mp4"]),
    ],
)
def test_wrong_flags_of_the_path(trained_project, flags, texts):
    main, fixed = reader(trained_project, "disentanglement")
    trained_project.refuses(main, *fixed, *flags, texts=texts)


def test_appearance_of_another_feature_width(trained_project):
    assert trained_project.train("--expname", "wide", "--set", "model.feature_vector_size=4").status == 0
    runs = ("--geometry_run", "exps/tiny_3", "--appearance_run", "exps/tinywide_3")
    texts = ["feature_vector_size", "8", "4"]
    trained_project.refuses(disentangle, *DISENTANGLE, *runs, texts=texts)


def test_no_surface_yet_is_said_and_evaluation_goes_on(trained_project):
    run = only_run(trained_project.root)
    saved = torch.load(run / MODEL_FILE / "1.pth", weights_only=True)
    saved["model_state_dict"]["implicit_network.lin2.bias"][0] = 100.0  # f > 0 everywhere
    shutil.rmtree(run / "checkpoints")
    save_files(run, {"ModelParameters": saved}, "1")
    outcome = trained_project.run(evaluate, *EVALUATE, "--eval_rendering")
    assert outcome.status == 0, outcome.err
    assert "no surface" in outcome.out and "RENDERING EVALUATION 3: psnr mean = " in outcome.out
    assert not list((trained_project.root / "evals").rglob("*.ply"))
