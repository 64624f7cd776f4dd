"""``idr photos``: number of epochs, continued runs, reasons to stop; mesh and report are left out."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.training import tiny

from idr.cli import import_scene
from idr.cli.photos import training as photos_training
from idr.cli.photos.command import STEPS, Chain, build_parser, main
from idr.cli.photos.journal import Journal
from idr.cli.photos.training import FINISH_SHARE, USED_SHARE, PhotoTraining, held_out_images, training_minutes
from idr.conf.files import load_conf
from idr.importers.masks.editing import EDITS

EPOCH = 1.0  # minutes per epoch of the trial, far more than the training needs
TRIAL = [20.0 + EPOCH * k for k in range(5)]
"""Minutes elapsed after each epoch of the trial; the first epoch takes longer."""


class Photos:
    """A folder of images and the command that reconstructs it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.out, self.capsys = root, root / "out", capsys
        self.source = tiny.write_scene(root) / "tiny" / "scan0"
        self.conf = root / "tiny.conf"
        schedule = "train.schedule { learning_rate { final = 0.1 } }"
        self.conf.write_text(tiny.conf_text() + tiny.GRID + schedule)

    def run(self, *options: str, status: int = 0) -> str:
        """Runs the command, checks its exit status and returns its standard output."""
        argv = [str(self.source), "--out", str(self.out), "--conf", str(self.conf), "--device", "cpu"]
        assert main([*argv, *options]) == status
        return self.capsys.readouterr().out

    def step(self, name: str) -> dict[str, Any]:
        """Returns the recorded result of a step."""
        return dict(json.loads((self.out / "steps" / f"{name}.json").read_text())["result"])

    @property
    def runs(self) -> list[Path]:
        return sorted((self.out / "exps").glob("*/*"))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Photos:
    def touch(chain: Chain) -> dict[str, Any]:
        chain.mesh.touch(), chain.report.touch()
        return {}

    monkeypatch.setattr(Chain, "_mesh", touch)
    monkeypatch.setattr(Chain, "_report", touch)
    return Photos(tmp_path, capsys)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the trial by recorded times; the list grows by one with each trial."""
    made: list[int] = []

    def trial(training: PhotoTraining) -> list[float]:
        made.append(1)
        return list(TRIAL)

    monkeypatch.setattr(PhotoTraining, "_trial", trial)
    return made


def minutes_for(epochs: int) -> float:
    """Returns the --max_minutes that allow this number of epochs, according to the trial.

    A share of them is for mesh and report. Import and check take no time here.
    """
    return (TRIAL[-1] + (epochs + 0.5) * EPOCH / USED_SHARE) / (1 - FINISH_SHARE)


def test_the_epochs_use_the_time_limit_and_are_chosen_once(photos: Photos, trials: list[int]) -> None:
    options = ["--max_minutes", f"{minutes_for(6):.6f}", "--set", "train.expname=fit"]
    assert re.search(r"an epoch takes 60.00 s: 6 epochs\n", photos.run(*options))
    assert photos.step("speed_trial")["nepoch"] == 6 and photos.step("train")["position"] == [6, 0]
    rates = [float(row["learning_rate"]) for row in tiny.metrics_rows(photos.runs[0])]
    assert len(rates) == 6 and rates[-1] < 0.25 * rates[0]  # the schedule ran to its end
    printed = photos.run(*options)
    assert len(trials) == 1 and len(photos.runs) == 1
    assert printed.count("done already") == 6


def test_more_minutes_continue_the_same_run(photos: Photos, trials: list[int]) -> None:
    photos.run("--max_minutes", f"{minutes_for(4):.6f}")
    printed = photos.run("--max_minutes", f"{minutes_for(7):.6f}")
    assert "continuing from checkpoint 4 (epoch 4, step 0)" in printed
    assert len(trials) == 2 and len(photos.runs) == 1
    # According to the trial, 7 more epochs use the remaining minutes, as the first 4 took almost no time.
    assert photos.step("train")["position"] == [11, 0] and photos.step("speed_trial")["nepoch"] == 11


def test_all_steps_count_and_training_gets_the_rest(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STEPS)
    minutes, text = training_minutes(journal, 60)
    assert minutes == 54 and text.endswith("mesh and report need about 6.0: 54 minutes for training")
    journal.finish("import", "i", {}, 20.0)
    journal.finish("doctor", "i", {}, 1.0)
    assert training_minutes(journal, 60)[0] == pytest.approx(33)
    for step in ("mesh", "report"):
        journal.finish(step, "i", {}, 1.5)  # of an earlier call: no guess is needed
    assert training_minutes(journal, 60)[0] == pytest.approx(36)
    minutes, text = training_minutes(journal, 24)
    assert minutes == pytest.approx(8) and "the import took 20.0" in text and "longer than asked" in text


def test_the_time_of_an_interrupted_step_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STEPS)
    journal.give_up("import", "i", 4.0)
    journal.give_up("import", "i", 3.0)
    assert journal.result("import", "i") is None and journal.minutes("import") == 7
    assert journal.minutes_before("import", "i") == 7 and journal.minutes_before("import", "others") == 0
    journal.finish("import", "i", {}, 9.0)
    assert journal.minutes("import") == 9 and journal.minutes_before("import", "i") == 0


def test_the_chain_keeps_its_time_limit_over_calls(
    photos: Photos, trials: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import of 10 minutes, by a clock of its own, leaves ten epochs less; a second call knows it, too."""
    clock, imported = [0.0], import_scene.main
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def slow_import(argv: list[str]) -> int:
        clock[0] += 600.0
        return imported(argv)

    monkeypatch.setattr(import_scene, "main", slow_import)
    done = {"timestamp": "t", "position": [7, 0], "checkpoint": "c"}
    monkeypatch.setattr(PhotoTraining, "train", lambda training, trial: done)
    minutes = minutes_for(6) + 10 * EPOCH / USED_SHARE / (1 - FINISH_SHARE)
    options = ["--max_minutes", f"{minutes:.6f}", "--set", "train.expname=fit"]
    assert "the import took 10.0" in photos.run(*options)
    first = photos.step("speed_trial")["nepoch"]
    assert first == 16 - 9  # 90 % of 10 epochs
    photos.run(*options, "--from", "speed_trial")
    assert photos.step("speed_trial")["nepoch"] == first


def scene_of(photos: Photos, count: int) -> None:
    """Repeats the views of the scene until there are this many."""
    with np.load(photos.source / "cameras.npz") as file:
        arrays = dict(file)
    images = sorted((photos.source / "image").iterdir())
    for k in range(len(images), count):
        for folder in ("image", "mask"):
            first = sorted((photos.source / folder).iterdir())[k % len(images)]
            image = np.asarray(Image.open(first)).copy()
            image[0, 0] = 0  # no copy of another file
            Image.fromarray(image).save(first.with_name(f"{k:03d}.png"))
        for key in ("world_mat", "scale_mat"):
            arrays[f"{key}_{k}"] = arrays[f"{key}_{k % len(images)}"]
    np.savez(photos.source / "cameras.npz", **arrays)


def test_photographs_are_held_out(photos: Photos, capsys: pytest.CaptureFixture[str]) -> None:
    photos.run("--nepoch", "1")
    scene_of(photos, 12)
    photos.run("--nepoch", "1")  # another scene begins another run
    found = sorted(list(load_conf(run / "runconf.conf")["dataset"].get("holdout", [])) for run in photos.runs)
    assert found == [[], [3, 9]]  # none of five
    scan, own = photos.out / "data" / "photos" / "scan0", {"dataset": {"holdout": [5]}}
    assert held_out_images(scan, None, own) == []
    assert held_out_images(scan, 0, own) == [] and held_out_images(scan, 4, own) == [1, 4, 7, 10]
    command = [str(photos.source), "--out", str(photos.out), "--conf", str(photos.conf), "--device", "cpu"]
    for flags in (["--hold_out", "11"], ["--hold_out", "2", "--set", "dataset.holdout=[]"]):
        assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert "--hold_out 11: the scene has 12 images; expected at most 10" in error
    assert "got both --hold_out and --set dataset.holdout" in error


@pytest.mark.parametrize(("count", "number"), [(11, 0), (12, 2), (35, 2), (36, 3), (300, 3)])
def test_one_in_twelve_photographs_is_held_out(count: int, number: int, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    for k in range(count):
        (tmp_path / "image" / f"{k}.png").touch()
    assert len(held_out_images(tmp_path, None, {"dataset": {}})) == number


def test_mended_masks_are_checked_and_trained_with(photos: Photos) -> None:
    photos.run("--nepoch", "1")
    record = photos.out / "data" / "photos" / "scan0" / "import.json"
    content = json.loads(record.read_text()) | {EDITS: "some digest"}
    record.write_text(json.dumps(content))
    printed = photos.run("--nepoch", "1")
    assert "== import: done already" in printed and printed.count("done already") == 1
    assert len(photos.runs) == 2


def test_nepoch_needs_no_trial_and_another_nepoch_begins_another_run(
    photos: Photos, trials: list[int]
) -> None:
    photos.run("--nepoch", "3")
    photos.run("--nepoch", "2")
    assert not trials and len(photos.runs) == 2
    assert photos.step("train")["position"] == [2, 0]


def test_from_a_step_before_training_begins_a_new_run(photos: Photos, trials: list[int]) -> None:
    for options in ([], ["--from", "import"], ["--from", "train"], ["--from", "mesh"]):
        photos.run("--nepoch", "1", *options)
    assert len(photos.runs) == 3


@pytest.mark.parametrize("step", ["speed_trial", "pace"])
def test_the_speed_trial_is_repeated_by_either_of_its_names(
    photos: Photos, trials: list[int], step: str
) -> None:
    options = ["--max_minutes", f"{minutes_for(2):.6f}"]
    photos.run(*options)
    printed = photos.run(*options, "--from", step)
    assert "== doctor: done already\n\n== speed_trial\n" in printed and printed.count("done already") == 2
    assert len(trials) == 2


def test_training_cut_by_the_time_limit_is_reported_and_the_chain_continues(photos: Photos) -> None:
    printed = photos.run("--nepoch", "100000", "--max_minutes", "0.003")
    assert "training gets 0.001 all the same: everything takes longer than asked" in printed
    assert re.search(r"--max_minutes 0.001\d* are over", printed)
    assert re.search(r"the time limit ended training in epoch \d+ of 100000, before its", printed)
    assert photos.out.joinpath("report.html").exists()


def test_a_real_trial_measures_speed(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos_training, "TRIAL_STEPS", 15)
    users = [photos.out / name / "notes.txt" for name in ("pace", "speed_trial")]
    for path in users:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    photos.run("--nepoch", "1")
    arguments = build_parser().parse_args([str(photos.source), "--conf", str(photos.conf), "--device", "cpu"])
    training = PhotoTraining(arguments, photos.out / "data" / "photos" / "scan0", photos.out, "_new", 30.0)
    trial = training.choose_epochs()
    found = re.search(r"an epoch takes ([\d.]+) s", photos.capsys.readouterr().out)
    assert found and not list(photos.out.glob(".speed_trial*"))
    assert all(path.read_text() == "mine" for path in users)
    fills = USED_SHARE * (30 - trial["minutes"])
    assert trial["nepoch"] * float(found[1]) / 60 == pytest.approx(fills, rel=0.2)  # seconds are rounded


def test_too_few_minutes_have_a_name(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PhotoTraining, "_trial", lambda training: TRIAL[:1])
    printed = photos.run("--max_minutes", "1", status=1)
    assert (
        "stopped at speed_trial: too-few-minutes: " in printed and "give more minutes, or --nepoch" in printed
    )


def test_a_finding_stops_the_chain_unless_it_is_allowed(photos: Photos) -> None:
    with np.load(photos.source / "cameras.npz") as file:
        arrays = dict(file)
    for key in arrays:
        if key.startswith("scale_mat"):
            arrays[key] = arrays[key] @ np.diag([0.4, 0.4, 0.4, 1.0])
    np.savez(photos.source / "cameras.npz", **arrays)
    printed = photos.run("--nepoch", "1", status=1)
    assert re.search(r"stopped at doctor: object-outside-sphere: .*--despite object-outside-sphere", printed)
    assert not photos.runs
    printed = photos.run("--nepoch", "1", "--despite", "object-outside-sphere")
    assert len(photos.runs) == 1
    # A mild finding is said; it asks for no --despite.
    assert "note: few-views: 5 views" in printed
    assert photos.step("doctor")["findings"] == ["object-outside-sphere", "few-views"]


def test_a_failed_training_stops_the_chain(photos: Photos) -> None:
    printed = photos.run("--nepoch", "1", "--set", "train.images_per_step=10", status=1)
    assert "stopped at train: training-stopped: see the message above" in printed


@pytest.mark.parametrize(
    ("status", "ends", "reason"),
    [(130, 130, "interrupted: finished steps are kept"), (2, 1, "import-failed: see the message above")],
)
def test_an_interruption_is_no_failure(
    photos: Photos, monkeypatch: pytest.MonkeyPatch, status: int, ends: int, reason: str
) -> None:
    monkeypatch.setattr(import_scene, "main", lambda argv: time.sleep(0.5) or status)
    assert f"stopped at import: {reason}" in photos.run("--nepoch", "1", status=ends)
    assert (Journal(photos.out, STEPS).minutes("import") > 0.008) == (status == 130)  # its time counts


def test_few_photographs_train_with_fewer_images_a_step(photos: Photos) -> None:
    photos.conf.write_text(photos.conf.read_text() + "train.images_per_step = 8\ntrain.num_pixels = 48\n")
    photos.run("--nepoch", "1")
    (run,) = photos.runs
    conf = load_conf(run / "runconf.conf")
    num_views = len(list((photos.source / "image").iterdir()))
    most = max(count for count in range(1, num_views + 1) if 48 % count == 0)
    assert num_views < 8 and conf["train.images_per_step"] == most
