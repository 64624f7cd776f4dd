"""A run that is stopped and continued, ours or the published code's."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from idr.checkpoints.folder import CheckpointFolder
from idr.cli.train import main
from idr.errors import InputError
from tests.training import tiny

PUBLISHED_TRACER = tiny.conf_text() + "\nmodel.ray_tracer.strategy = published\n"
AS_IN_FAST_CONF = """
train { images_per_step = 2, max_grad_norm = 0.5 }
train.sampler.inside = 0.3
train.schedule.param_groups.color_encoding { factor = 5, betas = [0.9, 0.99], eps = 1e-15 }
model.ray_tracer.strategy = compiled
model.rendering_network.encoding {
  type = hashgrid, levels = 2, log2_table = 8, base_resolution = 4, finest_resolution = 8
}
"""
EXPOSURES = "\ntrain.exposure.type = per_image\n"
SETTINGS = {
    "fixed cameras": {"cameras": False, "batch_size": 1},
    "trained cameras, short last batch": {"cameras": True, "batch_size": 2},
    # The published tracer carries nothing: without its grid a published run goes on bit for bit.
    "published tracer": {"conf": PUBLISHED_TRACER},
    "published tracer, trained cameras": {"conf": PUBLISHED_TRACER, "cameras": True, "batch_size": 2},
    "one draw of pixels an epoch": {
        "conf": tiny.conf_text("pixel_sampling = per_epoch, checkpoint_freq = 100")
    },
    "schedule": {"conf": tiny.conf_text() + tiny.SCHEDULE, "cameras": True, "batch_size": 2},
    "all terms": {"conf": tiny.conf_text() + tiny.TERMS, "cameras": True, "batch_size": 2},
    "two images a step": {
        "conf": tiny.conf_text() + tiny.SCHEDULE + AS_IN_FAST_CONF,
        "cameras": True,
        "batch_size": 2,
    },
    "exposures": {"conf": tiny.conf_text() + tiny.SCHEDULE + EXPOSURES, "cameras": True, "batch_size": 2},
}
STOPS = [  # steps; the second of each is an epoch's last
    ("fixed cameras", 7),
    ("fixed cameras", 10),
    ("trained cameras, short last batch", 4),
    ("trained cameras, short last batch", 6),
    ("one draw of pixels an epoch", 8),
    ("schedule", 1),
    ("schedule", 4),
    ("schedule", 6),
    ("two images a step", 5),
    ("all terms", 4),
    ("exposures", 4),
    ("exposures", 6),
]


def resumed(root: Path, run: Path, **options: Any) -> Any:
    """A new trainer that loaded a run's latest checkpoint."""
    trainer = tiny.make_trainer(root, run, **options)
    trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
    return trainer


def assert_same_rows(left: Path, right: Path) -> None:
    """``metrics.csv`` agrees but for the time."""
    rows = [tiny.metrics_rows(run) for run in (left, right)]
    for row in (*rows[0], *rows[1]):
        row.pop("minutes")
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("setting", "stop"), STOPS)
def test_continued_equals_uninterrupted(
    scene_root: Path, tmp_path: Path, setting: str, stop: int, whole_runs: Any
) -> None:
    """Stopped anywhere, at the last step of an epoch too: weights, moments, poses, schedule and metrics."""
    options = SETTINGS[setting]
    whole = whole_runs(setting)
    first = tiny.make_trainer(scene_root, tmp_path, nepoch=3, loss=tiny.interrupted_at(stop), **options)
    assert not first.train()
    steps = first.rays.steps_per_epoch
    assert (first.state.epoch, first.state.step) == divmod(stop, steps)
    assert resumed(scene_root, tmp_path, nepoch=3, **options).train()
    assert tiny.same(tiny.parts_of(tmp_path), tiny.parts_of(whole))
    assert tiny.checkpoint_digests(tmp_path) == tiny.checkpoint_digests(whole)
    assert_same_rows(tmp_path, whole)


@pytest.fixture(scope="module")
def whole_runs(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function from a setting's name to the folder of its uninterrupted run."""
    runs: dict[str, Path] = {}

    def run_of(setting: str) -> Path:
        if setting not in runs:
            runs[setting] = tmp_path_factory.mktemp("whole")
            assert tiny.make_trainer(scene_root, runs[setting], nepoch=3, **SETTINGS[setting]).train()
        return runs[setting]

    return run_of


def test_nepoch_is_counted_from_the_runs_start(scene_root: Path, tmp_path: Path, whole_runs: Any) -> None:
    options = SETTINGS["trained cameras, short last batch"]
    for nepoch in (1, 3):
        trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=nepoch, **options)
        if nepoch > 1:
            trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
        trainer.train()
    whole = whole_runs("trained cameras, short last batch")
    for name in ("0", "1", "2", "3"):
        assert tiny.checkpoint_digests(tmp_path, name) == tiny.checkpoint_digests(whole, name)
    assert_same_rows(tmp_path, whole)


def test_going_back_to_an_earlier_checkpoint_drops_the_later_rows(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path, nepoch=3).train()
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=2)
    trainer.resume(trainer.checkpoints, "1", keep_seed=False)
    trainer.train()
    assert [row["epoch"] for row in tiny.metrics_rows(tmp_path)] == ["0", "1"]
    assert CheckpointFolder(tmp_path / "checkpoints").resolve() == "2"


def test_the_seed_is_kept_unless_the_command_changes_it(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path / "a", nepoch=1, seed=5).train()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    tiny.make_trainer(scene_root, tmp_path / "whole", nepoch=2, seed=5).train()
    assert resumed(scene_root, tmp_path / "a", seed=0).train()
    assert tiny.checkpoint_digests(tmp_path / "a") == tiny.checkpoint_digests(tmp_path / "whole")
    other = tiny.make_trainer(scene_root, tmp_path / "b", seed=6)
    other.resume(other.checkpoints, "latest", keep_seed=True)
    other.train()
    assert tiny.parts_of(tmp_path / "b")["TrainerState"]["seed"] == 6
    assert tiny.checkpoint_digests(tmp_path / "b") != tiny.checkpoint_digests(tmp_path / "whole")


def test_going_on_in_a_new_folder_leaves_the_old_one(scene_root: Path, tmp_path: Path) -> None:
    arguments = {"nepoch": 1, "exps": str(tmp_path / "exps")}
    assert main(tiny.command(scene_root, **arguments)) == 0
    old = tiny.only_run(tmp_path / "exps")
    before = tiny.tree_digest(old)
    arguments["nepoch"] = 2
    assert main(tiny.command(scene_root, "--is_continue", "--new_run", **arguments)) == 0
    assert tiny.tree_digest(old) == before
    (new,) = [run for run in old.parent.iterdir() if run != old]
    assert CheckpointFolder(new / "checkpoints").names() == ["1", "2"]
    assert main(tiny.command(scene_root, "--is_continue", "--timestamp", old.name, **arguments)) == 0
    assert tiny.checkpoint_digests(old, "2") == tiny.checkpoint_digests(new, "2")


def as_published(parts: dict[str, Any]) -> dict[str, Any]:
    """What the published code, with torch 1.2, has in its files for the same state."""
    published: dict[str, Any] = {}
    for part, content in parts.items():
        if part in ("TrainerState", "TracerState"):
            continue
        epoch, (key, state) = content["epoch"], next(item for item in content.items() if item[0] != "epoch")
        if "param_groups" in state:
            (group,) = state["param_groups"]
            published_keys = ("lr", "betas", "eps", "weight_decay", "amsgrad", "initial_lr")
            keys = {
                i: 140_000_000_000_000 + 72 * i for i in group["params"]
            }  # objects' addresses, before torch 1.5
            state = {
                "state": {keys[i]: dict(slot) for i, slot in state["state"].items()},
                "param_groups": [
                    {k: group[k] for k in published_keys if k in group}
                    | {"params": [keys[i] for i in group["params"]]}
                ],
            }
        elif "milestones" in state:
            state = {
                **{key: state[key] for key in ("gamma", "base_lrs", "last_epoch", "_step_count")},
                "milestones": Counter(state["milestones"]),
            }
        published[part] = {"epoch": epoch, key: state}
    return published


def write_published(run: Path, parts: dict[str, Any], names: tuple[str, ...]) -> None:
    """Saves files as the published code does."""
    for part, content in as_published(parts).items():
        folder = run / "checkpoints" / part
        folder.mkdir(parents=True)
        for name in names:
            torch.save(content, folder / f"{name}.pth", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("setting", ["published tracer", "published tracer, trained cameras"])
def test_a_published_run_goes_on_in_its_folder(
    scene_root: Path, tmp_path: Path, setting: str, whole_runs: Any
) -> None:
    options, whole = SETTINGS[setting], whole_runs(setting)
    write_published(tmp_path, tiny.parts_of(whole, "2"), ("2", "latest"))
    before = tiny.checkpoint_digests(tmp_path, "2")
    assert resumed(scene_root, tmp_path, nepoch=3, **options).train()
    # The published files carry no random state: ours is a function of seed and epoch, so it goes on alike.
    after, expected = tiny.parts_of(tmp_path), tiny.parts_of(whole)
    for part in ("ModelParameters", "CamParameters", "TrainerState"):
        assert tiny.same(after.get(part), expected.get(part))
    for part in ("OptimizerParameters", "OptimizerCamParameters"):
        if part in expected:
            states = [
                next(v for k, v in parts[part].items() if k != "epoch")["state"]
                for parts in (after, expected)
            ]
            assert tiny.same(*states)
    schedules = [parts["SchedulerParameters"]["scheduler_state_dict"] for parts in (after, expected)]
    for key in ("milestones", "gamma", "base_lrs", "last_epoch"):
        assert schedules[0][key] == schedules[1][key]
    assert CheckpointFolder(tmp_path / "checkpoints").names() == ["2", "3"]
    assert before.keys() <= tiny.checkpoint_digests(tmp_path, "2").keys()


def test_a_published_pretrained_run_goes_on_where_the_schedules_are(
    scene_root: Path, tmp_path: Path, whole_runs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder has any name and holds weights alone, 2000.pth, no latest."""
    run = tmp_path / "exps" / "tiny" / "2020"
    parts = {"ModelParameters": tiny.parts_of(whole_runs("fixed cameras"), "3")["ModelParameters"]}
    write_published(run, parts, ("3",))
    trainer = resumed(scene_root, run, nepoch=6)
    assert "holds no OptimizerParameters: that part starts anew" in caplog.text
    assert trainer.train()
    rows = tiny.metrics_rows(run)
    assert [row["epoch"] for row in rows] == ["3", "4", "5"]
    assert [float(row["learning_rate"]) for row in rows] == [
        pytest.approx(rate) for rate in (3e-4, 3e-4, 9e-5)
    ]
    assert [float(row["alpha"]) for row in rows] == [100, 200, 200]


def test_continue_without_a_run_starts_from_scratch_with_a_message(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"nepoch": 1, "exps": str(tmp_path / "exps")}
    assert main(tiny.command(scene_root, "--is_continue", **arguments)) == 0
    assert "nothing to continue from, starting from scratch" in capsys.readouterr().out
    run = tiny.only_run(tmp_path / "exps")
    before = tiny.tree_digest(run)
    assert main(tiny.command(scene_root, "--is_continue", **arguments)) == 0
    assert "nothing to do: 1 epochs are done, --nepoch is 1" in capsys.readouterr().out
    assert tiny.tree_digest(run) == before


def test_no_epochs_at_all_save_the_start(scene_root: Path, tmp_path: Path) -> None:
    assert main(tiny.command(scene_root, nepoch=0, exps=str(tmp_path / "exps"))) == 0
    assert CheckpointFolder(tiny.only_run(tmp_path / "exps") / "checkpoints").names() == ["0"]


@pytest.fixture(scope="module")
def started(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function that copies a run of one epoch, with or without trained cameras, to a new folder of runs."""
    exps = {}
    for flag in ("", "--train_cameras"):
        exps[flag] = tmp_path_factory.mktemp("started")
        assert main(tiny.command(scene_root, *filter(None, [flag]), nepoch=1, exps=str(exps[flag]))) == 0
    return lambda flag, target: shutil.copytree(exps[flag], target)


@pytest.mark.parametrize(
    ("before", "flags", "message"),
    [
        (
            "",
            ["--set", "model.rendering_network.dims=[16,16]"],
            r"checkpoint 1 in .* is of another architecture than the conf .*rendering_network\.lin1\.\w+ .*; "
            r"use the conf that the checkpoint was trained with \(runconf\.conf in its run folder\)",
        ),
        (
            "",
            ["--set", "model.implicit_network.dims=[16,17,16]"],
            r"architecture .*: implicit_network\.lin1\.bias is \[\d+\] there, \[\d+\] in the conf's.*; use",
        ),
        (
            "",
            ["--train_cameras"],
            r"checkpoint 1 in .* holds no trained cameras \(CamParameters\); continue it without --train_c",
        ),
        (
            "--train_cameras",
            [],
            r"checkpoint 1 in .* holds trained cameras \(CamParameters\), .*; continue it with --train_c",
        ),
        (
            "--train_cameras",
            ["--train_cameras", "--set", "dataset.holdout=[2]"],
            r"holds cameras of 5 images, the scene has 4; continue with the scene and dataset.holdout",
        ),
        ("", ["--checkpoint", "7"], r"holds checkpoint 7; runs there: "),
        ("", ["--timestamp", "2020"], r"no run 2020 in .*; runs there: .*; give one of these to --timestamp"),
    ],
    ids=["layers", "widths", "no cameras", "cameras", "images", "checkpoint", "run"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_touched(
    scene_root: Path, tmp_path: Path, started: Any, before: str, flags: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    exps = started(before, tmp_path / "exps")
    digest = tiny.tree_digest(exps)
    assert main(tiny.command(scene_root, "--is_continue", *flags, nepoch=2, exps=str(exps))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    with pytest.raises(InputError, match=message):
        raise InputError(error)
    assert tiny.tree_digest(exps) == digest


def test_within_an_epoch_the_batch_size_must_stay(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path, batch_size=2, loss=tiny.interrupted_at(2)).train()
    with pytest.raises(
        InputError, match=r"is within an epoch of --batch_size 2, got --batch_size 1; continue with 2"
    ):
        resumed(scene_root, tmp_path, batch_size=1)
    trainer = tiny.make_trainer(scene_root, tmp_path, batch_size=1)
    trainer.resume(trainer.checkpoints, "0", keep_seed=False)  # between epochs it may change
    assert trainer.train()


def test_the_conf_before_a_change_is_kept(scene_root: Path, tmp_path: Path, started: Any) -> None:
    exps = started("", tmp_path / "exps")
    run = tiny.only_run(exps)
    before = (run / "runconf.conf").read_text()
    assert main(tiny.command(scene_root, "--is_continue", nepoch=2, exps=str(exps))) == 0
    assert (run / "runconf.conf").read_text() == before and not list(run.glob("runconf_until_*"))
    changed = ["--set", "train.learning_rate=5.0e-4"]
    assert main(tiny.command(scene_root, "--is_continue", *changed, nepoch=3, exps=str(exps))) == 0
    assert (run / "runconf_until_2.conf").read_text() == before
    assert "learning_rate = 0.0005" in (run / "runconf.conf").read_text()
    assert float(tiny.metrics_rows(run)[-1]["learning_rate"]) == 5e-4
    for expected in (2, 3):  # a second change in an epoch does not replace the conf before the first
        (run / "runconf.conf").write_text(f"before = {expected}")
        again = ("--is_continue", "--checkpoint", "2")
        assert main(tiny.command(scene_root, *again, nepoch=3, exps=str(exps))) == 0
        assert f"before = {expected}" in (run / f"runconf_until_2_{expected}.conf").read_text()
    assert (run / "runconf_until_2.conf").read_text() == before
