"""Progress line, metrics.csv and TensorBoard."""

from __future__ import annotations

import builtins
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from idr.cli.train import main
from idr.errors import InputError
from idr.training import progress
from idr.training.progress import Averages, MetricsFile, ProgressLine, minutes_and_seconds
from tests.training import tiny


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_durations(seconds: float, text: str) -> None:
    assert minutes_and_seconds(seconds) == text


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def losses(value: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return {name: torch.tensor(value) for name in progress.LOSS_NAMES}, torch.tensor([0.03, 3.0])


def test_progress_lines_come_with_the_time_whatever_an_epochs_length(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Short epochs have lines too; plots and checkpoints count as no training time."""
    caplog.set_level(logging.INFO, logger="idr")
    clock = Clock(monkeypatch)
    line = ProgressLine(num_epochs=10, steps_per_epoch=4)
    for epoch in range(10):
        with line.paused():
            clock.now += 1000.0
        for step in range(4):
            clock.now += 1.0  # 4 s an epoch, 40 s in all: a line after 10, 20, 30 and at the end
            line.step(epoch, step + 1, *losses(float(epoch)), rays=512)
    assert [record.getMessage().split("  ")[0] for record in caplog.records] == [
        "epoch 2/10", "epoch 5/10", "epoch 7/10", "epoch 10/10"
    ]  # fmt: skip
    first = caplog.records[0].getMessage()
    assert (
        "loss 0.8000 (rgb 0.8000, eikonal 0.8000, mask 0.80000)" in first
    )  # four steps at 0, four at 1, two at 2
    assert first.endswith("psnr of hits 20.00 dB  512 rays/s  0:30 left")  # 10 log10(3 / 0.03)
    assert caplog.records[-1].getMessage().endswith("512 rays/s  0:00 left")


def test_compilation_of_the_first_steps_is_in_no_estimate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="idr")
    clock = Clock(monkeypatch)
    line = ProgressLine(num_epochs=1, steps_per_epoch=100)
    for step in range(40):
        clock.now += 30.0 if step == 0 else 0.5
        line.step(0, step + 1, *losses(1.0), rays=512)
    first, later = (record.getMessage() for record in caplog.records)
    assert first.endswith("first steps, time left not yet known")
    assert later.endswith("1,024 rays/s  0:40 left")  # 79 steps of half a second


def test_time_left_follows_steps_that_become_slower(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="idr")
    clock = Clock(monkeypatch)
    line = ProgressLine(num_epochs=1, steps_per_epoch=1000)
    for step in range(500):
        clock.now += 0.1 if step < 100 else 1.0  # as where an image pyramid ends
        line.step(0, step + 1, *losses(1.0), rays=512)
    left = caplog.records[-1].getMessage().split("  ")[-1]
    minutes, seconds = left.removesuffix(" left").split(":")
    assert 60 * int(minutes) + int(seconds) == pytest.approx(500, rel=0.05)


def test_averages_of_nothing_are_empty_and_of_no_shaded_ray_have_no_psnr() -> None:
    averages = Averages()
    assert averages.read() == {}
    averages.add({"loss": torch.tensor(1.0)}, torch.zeros(2))
    assert str(averages.read()) == "{'loss': 1.0, 'psnr': nan}"


def test_metrics_are_whole_after_every_row_and_keep_what_is_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, 0)
    assert not path.exists() and metrics.minutes_so_far == 0
    for epoch in range(3):
        metrics.add({"epoch": epoch, "loss": 0.5 / 3, "minutes": 1.5 * (epoch + 1)})
        assert path.read_text().count("\n") == epoch + 2
    continued = MetricsFile(path, 2)
    assert continued.minutes_so_far == 3.0
    continued.add({"epoch": 2, "loss": float("nan"), "minutes": 5.0, "camera_center": 1e-9})
    assert path.read_text() == (
        "epoch,loss,minutes,camera_center\n0,0.166667,1.5,\n1,0.166667,3,\n2,nan,5,1e-09\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffepoch,loss\n0,1\n1,0.9\n".encode(),  # saved by spreadsheet programs
        b"epoch;loss\n0;1\n1;0,9\n",
        "epoch,loss\n0,1\n".encode("utf-16"),
        b"epoch,loss\n0,1\n1,0,9\n2,0.8\n",
        b"epoch,loss\n0,one\n",
        b"epoch,minutes\n0,inf\n",
        b"epoch,loss\n\n0,1\n",
        "epoch,loss\n²,1\n".encode(),
        b"epoch,loss,loss\n0,1,1\n",
        b"\x00\xff\xfe",
        b"",
    ],
)
def test_a_metrics_file_of_another_program_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv: .* or move it away"):
        MetricsFile(path, 5)
    assert path.read_bytes() == content


def test_continuing_beside_a_spreadsheets_metrics_changes_nothing(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*flags: str) -> list[str]:
        return [*tiny.command(scene_root, *flags, nepoch=2), "--exps_folder", str(tmp_path)]

    assert main([*command(), "--nepoch", "1"]) == 0
    run = tiny.only_run(tmp_path)
    path = run / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b",", b";"))
    before = tiny.tree_digest(run)
    assert main(command("--is_continue", "--set", "loss.alpha=40")) == 2
    assert "spreadsheet" in capsys.readouterr().err and tiny.tree_digest(run) == before
    path.rename(tmp_path / "mine.csv")  # the remedy
    assert main(command("--is_continue")) == 0
    assert [row["epoch"] for row in tiny.metrics_rows(run)] == ["1"]


def test_a_metrics_file_with_a_torn_end_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n0,1\n1,0.9\n2\n")
    metrics = MetricsFile(path, 5)
    metrics.add({"epoch": 2, "loss": 0.8})
    assert path.read_text() == "epoch,loss\n0,1\n1,0.9\n2,0.8\n"


def test_without_tensorboard_the_message_names_the_extra_and_no_run_is_made(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", blocked)
    assert main(tiny.command(scene_root, "--tensorboard", exps=str(tmp_path / "exps"))) == 2
    assert (
        "--tensorboard needs the tensorboard package; pip install 'idr-surface[tensorboard]'"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "exps").exists()


def events_of(run: Path) -> Any:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0}
    )
    events.Reload()
    return events


def test_tensorboard_has_the_numbers_of_the_csv_and_the_plots(scene_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra idr-surface[tensorboard] is not installed")
    flags = ["--tensorboard", "--set", "train.plot_freq=2"]
    exps = str(tmp_path / "exps")
    assert main(tiny.command(scene_root, *flags, nepoch=2, exps=exps)) == 0
    run = tiny.only_run(tmp_path / "exps")
    before = tiny.tree_digest(run)
    # Back to epoch 1 in a new folder: the old one's events are left alone.
    again = ["--is_continue", "--checkpoint", "1", "--new_run"]
    assert main(tiny.command(scene_root, *flags, *again, nepoch=3, exps=exps)) == 0
    assert tiny.tree_digest(run) == before
    (new,) = [other for other in run.parent.iterdir() if other != run]
    # Back to epoch 1 in its own folder: no epoch counts twice.
    again = ["--is_continue", "--checkpoint", "1", "--timestamp", run.name]
    assert main(tiny.command(scene_root, *flags, *again, nepoch=3, exps=exps)) == 0
    for folder, epochs in ((run, [0, 1, 2]), (new, [1, 2])):
        events, rows = events_of(folder), tiny.metrics_rows(folder)
        for name in ("loss", "psnr", "alpha", "learning_rate"):
            scalars = events.Scalars(name)
            assert [scalar.step for scalar in scalars] == epochs
            assert [scalar.value for scalar in scalars] == [
                pytest.approx(float(row[name]), rel=1e-5) for row in rows
            ]
    assert sorted(events_of(run).Tags()["images"]) == ["depth", "rendering"]
    assert [image.step for image in events_of(run).Images("depth")] == [0, 2]


def test_columns_of_earlier_versions_get_their_present_names(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,camera_centre,open_colour_levels\n0,0.5,2\n")
    MetricsFile(path, 1).add({"epoch": 1, "camera_center": 0.25, "open_color_levels": 3})
    assert path.read_text() == "epoch,camera_center,open_color_levels\n0,0.5,2\n1,0.25,3\n"
