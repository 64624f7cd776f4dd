"""The loop: what happens when, and which files it leaves."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from idr.checkpoints.folder import CheckpointFolder
from tests.training import tiny


class Diary:
    """Writes down what a trainer does, in order."""

    def __init__(self, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[str] = []
        self.trainer = trainer
        diary = self

        class Loss(tiny.WatchedLoss):
            alpha = property(lambda self: self.inner.alpha, lambda self, value: diary.write("settings"))

        trainer.loss = Loss(trainer.loss, lambda _: self.write("train"))
        for owner, name, entry in (
            (trainer.checkpoints, "save", "checkpoint"),
            (trainer.dataset, "sample_item", "draw"),
        ):
            monkeypatch.setattr(owner, name, self.noting(entry, getattr(owner, name)))

    def write(self, entry: str) -> None:
        self.entries.append(entry)

    def noting(self, entry: str, function: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.write(entry)
            return function(*args, **kwargs)

        return noted


def test_order_within_an_epoch(scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries: list[str] = []
    trainer = tiny.make_trainer(
        scene_root,
        tmp_path,
        nepoch=3,
        batch_size=3,
        conf=tiny.conf_text("plot_freq = 2, checkpoint_freq = 2"),
        plot=lambda _, epoch: entries.append(f"plot {epoch}"),
    )
    diary = Diary(trainer, monkeypatch)
    diary.entries = entries
    trainer.train()
    steps = ["draw", "settings", "train"] * 2  # five images: a batch of three, then one of two
    assert [entry for entry, _ in groupby(entries)] == [
        "checkpoint", "plot 0", *steps, *steps, "checkpoint", "plot 2", *steps, "checkpoint"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("nepoch", "freq", "names"), [(5, 2, ["0", "2", "4", "5"]), (4, 2, ["0", "2", "4"]), (1, 100, ["0", "1"])]
)
def test_checkpoints_at_their_interval_and_after_the_last_epoch(
    scene_root: Path, tmp_path: Path, nepoch: int, freq: int, names: list[str]
) -> None:
    conf = tiny.conf_text(f"checkpoint_freq = {freq}")
    assert tiny.make_trainer(scene_root, tmp_path, nepoch=nepoch, batch_size=5, conf=conf).train()
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    assert checkpoints.names() == names
    for part in ("ModelParameters", "OptimizerParameters", "SchedulerParameters", "TrainerState"):
        files = {path.name for path in (tmp_path / "checkpoints" / part).iterdir()}
        assert files == {f"{name}.pth" for name in (*names, "latest")}
        assert [checkpoints.load(part, name)["epoch"] for name in names] == [int(name) for name in names]
        assert checkpoints.load(part, "latest")["epoch"] == nepoch
    assert tiny.checkpoint_digests(tmp_path, "latest") == tiny.checkpoint_digests(tmp_path, str(nepoch))


def test_keep_checkpoints_keeps_the_newest(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text("keep_checkpoints = 2")
    tiny.make_trainer(scene_root, tmp_path, nepoch=4, batch_size=5, conf=conf).train()
    assert CheckpointFolder(tmp_path / "checkpoints").names() == ["3", "4"]


def test_files_are_in_the_published_form(scene_root: Path, tmp_path: Path) -> None:
    """Names, keys and integer steps that the published code, made for torch 1.2, loads."""
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=1, cameras=True, batch_size=2)
    trainer.train()
    loaded = {}
    for part, key in {
        "ModelParameters": "model_state_dict",
        "OptimizerParameters": "optimizer_state_dict",
        "SchedulerParameters": "scheduler_state_dict",
        "CamParameters": "pose_vecs_state_dict",
        "OptimizerCamParameters": "optimizer_cam_state_dict",
    }.items():
        path = tmp_path / "checkpoints" / part / "latest.pth"
        assert path.read_bytes()[:2] != b"PK"  # torch 1.2 reads no zip files
        content = torch.load(path, map_location="cpu", weights_only=True)
        assert list(content) == ["epoch", key] and content["epoch"] == 1
        loaded[part] = content[key]
    assert list(loaded["ModelParameters"]) == list(trainer.state.model.state_dict())
    assert list(loaded["CamParameters"]) == ["weight"] and loaded["CamParameters"]["weight"].shape == (5, 7)
    assert {"milestones", "gamma", "base_lrs", "last_epoch"} <= set(loaded["SchedulerParameters"])
    assert loaded["SchedulerParameters"]["last_epoch"] == 1
    for part, slots, steps in (
        ("OptimizerParameters", len(list(trainer.state.model.parameters())), 3),
        ("OptimizerCamParameters", 1, 3),
    ):
        state = loaded[part]["state"]
        assert list(state) == list(range(slots)) == loaded[part]["param_groups"][0]["params"]
        assert all(type(slot["step"]) is int and slot["step"] == steps for slot in state.values())
        assert all({"exp_avg", "exp_avg_sq"} <= set(slot) for slot in state.values())


def test_a_row_of_metrics_an_epoch(scene_root: Path, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(
        scene_root, tmp_path, nepoch=3, monitor=lambda t: {"epochs_done": t.state.epoch}
    )
    trainer.train()
    rows = tiny.metrics_rows(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert list(rows[0]) == [
        "epoch", "loss", "rgb_loss", "eikonal_loss", "mask_loss", "psnr", "alpha", "learning_rate", "minutes",
        "epochs_done",
    ]  # fmt: skip
    for row in rows:
        assert all(row.values())
        total = float(row["rgb_loss"]) + 0.1 * float(row["eikonal_loss"]) + 100 * float(row["mask_loss"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)  # six digits of each term
    minutes = [float(row["minutes"]) for row in rows]
    assert minutes == sorted(minutes) and minutes[0] > 0


def test_psnr_of_metrics_is_that_of_the_shaded_rays() -> None:
    from idr.training.progress import Averages, squared_error

    rendered = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.5, -1.0], [-1.0, 0.2, 0.0], [0.3, 0.3, 0.3]])
    photo = torch.tensor([[[0.8, 1.0, 0.6], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.1, 0.2, 0.3]]])
    outputs = {
        "rgb_values": rendered,
        "network_object_mask": torch.tensor([True, True, False, True]),
        "object_mask": torch.tensor([True, True, True, False]),
    }
    averages = Averages()
    averages.add({"loss": torch.tensor(3.0)}, squared_error(outputs, photo))
    averages.add({"loss": torch.tensor(1.0)}, squared_error(outputs, photo))
    mean = (0.1**2 + 0.2**2 + 0.25**2) / 6  # colors of the first two rays in [0, 1]
    assert averages.read() == {
        "loss": 2.0,
        "psnr": pytest.approx(-10 * torch.log10(torch.tensor(mean)).item()),
    }


def test_plots_change_no_bit(scene_root: Path, tmp_path: Path) -> None:
    def plot(trainer: Any, epoch: int) -> None:
        trainer.dataset.change_sampling_idx(-1)
        trainer.state.model.eval()
        torch.rand(1000 + epoch)

    conf = tiny.conf_text("plot_freq = 1")
    for name, function in (("with", plot), ("without", None)):
        tiny.make_trainer(scene_root, tmp_path / name, plot=function, conf=conf).train()
    assert tiny.checkpoint_digests(tmp_path / "with") == tiny.checkpoint_digests(tmp_path / "without")


def test_a_trainer_can_be_stopped_and_go_on_as_an_object(scene_root: Path, tmp_path: Path) -> None:
    stopped = tiny.make_trainer(scene_root, tmp_path / "stopped", nepoch=2, loss=tiny.interrupted_at(7))
    assert not stopped.train() and (stopped.state.epoch, stopped.state.step) == (1, 2)
    assert stopped.train()
    tiny.make_trainer(scene_root, tmp_path / "whole", nepoch=2).train()
    assert tiny.checkpoint_digests(tmp_path / "stopped") == tiny.checkpoint_digests(tmp_path / "whole")
