"""What goes wrong during training: numbers that are not finite, a disk that refuses, Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from idr import files
from idr.checkpoints.folder import CheckpointFolder
from idr.cli.train import main
from idr.datasets.scene_dataset import SceneDataset
from idr.errors import TrainingStoppedError
from idr.training.trainer import Trainer
from tests.training import tiny


def plant_nan(monkeypatch: pytest.MonkeyPatch, image: int) -> None:
    """Makes one photograph's colors NaN, from the second epoch on: five items were sampled before."""
    original, sampled = SceneDataset.sample_item, [0]

    def sample_item(self: SceneDataset, index: int, pixels: Any) -> Any:
        sampled[0] += 1
        item = original(self, index, pixels)
        if self.indices[index] == image and sampled[0] > self.n_images:
            item[2]["rgb"].fill_(float("nan"))
        return item

    monkeypatch.setattr(SceneDataset, "sample_item", sample_item)


def test_a_loss_that_is_not_finite_stops_and_names_the_view(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exps = str(tmp_path / "exps")
    with monkeypatch.context() as patch:
        plant_nan(patch, image=3)
        # Image 0 is held out: the message names the photograph's number, not its place in the split.
        held_out = ["--set", "dataset.holdout=[0]"]
        assert main(tiny.command(scene_root, *held_out, nepoch=4, exps=exps)) == 1
    captured = capsys.readouterr()
    run = tiny.only_run(tmp_path / "exps")
    (saved,) = run.glob("nonfinite_*.pth")
    epoch, step = map(int, saved.stem.split("_")[1:])
    assert (
        f"stopped: epoch {epoch}, step {step}: loss, rgb_loss not finite in view 3; the weights"
        in captured.err
    )
    assert str(saved) in captured.err and "Traceback" not in captured.err
    assert "lower train.learning_rate and continue with --is_continue" in captured.err

    state = torch.load(saved, weights_only=True)
    assert state["TrainerState"]["epoch"] == epoch == 1 and state["TrainerState"]["step"] == step
    assert state["batch"]["indices"].tolist() == [2] and state["batch"]["ground_truth"]["rgb"].isnan().all()
    assert state["losses"]["rgb_loss"].isnan() and state["losses"]["mask_loss"].isfinite()
    for weights in (state, tiny.parts_of(run)):
        assert all(
            value.isfinite().all() for value in weights["ModelParameters"]["model_state_dict"].values()
        )
    assert CheckpointFolder(run / "checkpoints").names() == ["0", "1"]

    # Without the fault the run goes on, and the remedy that the message names takes effect.
    remedy = ["--set", "train.learning_rate=1.0e-5"]
    assert main(tiny.command(scene_root, *held_out, *remedy, "--is_continue", nepoch=2, exps=exps)) == 0
    assert [row["learning_rate"] for row in tiny.metrics_rows(run)] == ["0.001", "1e-05"]


def spoil(trainer: Trainer, what: str) -> None:
    weight = trainer.state.model.rendering_network.lin0.bias
    if what == "a weight":
        weight.data[0] = float("nan")
    elif what == "the model's gradient":
        weight.register_hook(lambda gradient: gradient * float("inf"))
    else:
        assert trainer.state.poses is not None
        trainer.state.poses.weight.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a weight", r"epoch 0, step 3: loss, rgb_loss not finite in view \d; "),
        ("the model's gradient", r"epoch 0, step 3: the gradient not finite in view \d; "),
        ("the cameras' gradient", r"epoch 0, step 3: the gradient not finite in view \d; "),
    ],
)
def test_no_step_is_taken_with_what_is_not_finite(
    scene_root: Path, tmp_path: Path, what: str, message: str
) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, cameras=True)
    sample = trainer.dataset.sample_item
    drawn: list[int] = []
    weights: dict[str, torch.Tensor] = {}

    def sample_item(index: int, pixels: Any) -> Any:
        drawn.append(index)
        if len(drawn) == 4:
            spoil(trainer, what)
            weights.update({name: value.clone() for name, value in trainer.state.model.state_dict().items()})
        return sample(index, pixels)

    trainer.dataset.sample_item = sample_item
    with pytest.raises(TrainingStoppedError, match=message):
        trainer.train()
    assert tiny.same(dict(trainer.state.model.state_dict()), weights)
    assert (tmp_path / "nonfinite_0_3.pth").is_file()
    assert trainer.state.poses is not None and trainer.state.poses.weight.isfinite().all()


def test_the_news_is_the_loss_also_where_its_state_cannot_be_saved(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path)
    spoil(trainer, "the model's gradient")
    refuse(monkeypatch, "nonfinite_0_0.pth", errno.ENOSPC)
    with pytest.raises(
        TrainingStoppedError, match=r"the gradient not finite .* are lost \(cannot write .*no space left"
    ):
        trainer.train()


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Lets the system refuse to put a file of this name (or path's end) in its place."""
    replace = os.replace

    def refusing(source: Any, target: Any) -> None:
        if str(target).endswith(name):
            raise OSError(number, os.strerror(number), str(target))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", refusing)


@pytest.mark.parametrize(
    ("name", "number", "message", "kept"),
    [
        ("ModelParameters/1.pth", errno.ENOSPC, "no space left on device", "0"),
        ("manifests/1.json", errno.EDQUOT, "your quota there is used up", "0"),
        ("TrainerState/latest.pth", errno.ENOSPC, "checkpoint 0 is saved, but the work after it failed", "0"),
        ("plots/rendering_1.png", errno.ENOSPC, "free some space there", "1"),
        ("metrics.csv", errno.EROFS, "that file system is read-only: write to another folder", "0"),
        (
            "ModelParameters/2.pth",
            errno.EACCES,
            "you may not write there: change the folder's permissions",
            "1",
        ),
    ],
    ids=["part", "manifest", "latest", "plot", "metrics", "last epoch"],
)
def test_a_disk_that_refuses_keeps_the_last_good_checkpoint(
    scene_root: Path, tmp_path: Path, name: str, number: int, message: str, kept: str, uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["--set", "train.plot_freq=1"] if "plots" in name else []
    exps = str(tmp_path / "exps")
    with monkeypatch.context() as patch:
        refuse(patch, name, number)
        assert main(tiny.command(scene_root, *arguments, nepoch=2, exps=exps)) == 2
    error = capsys.readouterr().err
    assert "error: " in error and message in error and Path(name).name in error and "Traceback" not in error
    run = tiny.only_run(tmp_path / "exps")
    assert CheckpointFolder(run / "checkpoints").resolve() == kept
    assert not list(run.rglob("*.tmp"))
    assert main(tiny.command(scene_root, "--is_continue", nepoch=2, exps=exps)) == 0
    assert tiny.checkpoint_digests(run) == tiny.checkpoint_digests(uninterrupted)
    assert [row["epoch"] for row in tiny.metrics_rows(run)] == ["0", "1"]


@pytest.fixture(scope="module")
def uninterrupted(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two epochs that all others are compared with."""
    exps = tmp_path_factory.mktemp("uninterrupted")
    assert main(tiny.command(scene_root, nepoch=2, exps=str(exps))) == 0
    return tiny.only_run(exps)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_folder_of_runs_that_is_read_only(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exps").mkdir(mode=0o500)
    assert main(tiny.command(scene_root, exps=str(tmp_path / "exps"))) == 2
    assert "you may not write there" in capsys.readouterr().err


def watch_losses(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Lets `before` see each step of what the command line trains."""
    original = Trainer.__init__

    def init(self: Trainer, dataset: Any, model: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        original(self, dataset, model, tiny.WatchedLoss(loss, before), *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", init)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_saves_and_prints_how_to_continue(
    scene_root: Path, tmp_path: Path, uninterrupted: Path, number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    exps = str(tmp_path / "exps")
    with monkeypatch.context() as patch:
        watch_losses(patch, lambda call: os.kill(os.getpid(), number) if call == 7 else None)
        assert main(tiny.command(scene_root, nepoch=2, exps=exps)) == 130
    captured = capsys.readouterr()
    run = tiny.only_run(tmp_path / "exps")
    assert "stopping after this step; once more to stop without saving" in captured.err
    assert f"stopped in epoch 1, step 2; the state is saved in {run / 'checkpoints'}" in captured.out
    assert f"to go on: the same command with --is_continue --timestamp {run.name}" in captured.out
    assert CheckpointFolder(run / "checkpoints").names() == ["0", "1", "1_2"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert main(tiny.command(scene_root, "--is_continue", "--timestamp", run.name, nepoch=2, exps=exps)) == 0
    assert "continuing from checkpoint 1_2 (epoch 1, step 2)" in capsys.readouterr().out
    assert tiny.checkpoint_digests(run) == tiny.checkpoint_digests(uninterrupted)


def test_a_second_ctrl_c_acts_at_once(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def press_twice(call: int) -> None:
        calls.append(call)
        if call == 7:
            tiny.press_ctrl_c()
            tiny.press_ctrl_c()
            pytest.fail("went on")

    watch_losses(monkeypatch, press_twice)
    assert main(tiny.command(scene_root, nepoch=2, exps=str(tmp_path / "exps"))) == 130
    assert calls[-1] == 7 and capsys.readouterr().err.endswith("interrupted\n")
    assert CheckpointFolder(tiny.only_run(tmp_path / "exps") / "checkpoints").names() == ["0", "1"]
