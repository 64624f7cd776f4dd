"""Training that ends by the clock or by its quality."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from idr.cli import train
from idr.training import stopping
from idr.training.stopping import StopRule
from tests.training import tiny


class Clock:
    """Stands for the `time` module: a second passes at each call of the loss."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def tick(self, _: int) -> None:
        self.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopping, "time", clock)
    return clock


def test_stops_after_the_step_that_spends_the_time(scene_root: Path, tmp_path: Path, clock: Clock) -> None:
    trainer = tiny.make_trainer(
        scene_root, tmp_path / "cut", nepoch=2, stop=StopRule(max_minutes=7 / 60),
        loss=lambda loss: tiny.WatchedLoss(loss, clock.tick),
    )  # fmt: skip
    assert not trainer.train() and not trainer.interrupted
    assert (trainer.state.epoch, trainer.state.step) == (1, 2)  # epochs of five steps
    assert trainer.stop.reason == "--max_minutes 0.116667 are over"
    # A run that goes on has its own clock, and the bits of one that was never cut.
    again = tiny.make_trainer(scene_root, tmp_path / "cut", nepoch=2, stop=StopRule(max_minutes=1))
    again.resume(trainer.checkpoints, "latest", keep_seed=False)
    assert again.train()
    tiny.make_trainer(scene_root, tmp_path / "whole", nepoch=2).train()
    assert tiny.checkpoint_digests(tmp_path / "cut") == tiny.checkpoint_digests(tmp_path / "whole")


def test_the_time_limit_counts_from_began(clock: Clock) -> None:
    assert StopRule(max_minutes=1, began=30.0).is_met
    rule = StopRule(max_minutes=2, began=30.0)
    assert rule.seconds_left() == 50 and not rule.is_met
    assert StopRule().seconds_left() == math.inf and not StopRule().is_met


def test_stops_after_the_epoch_that_passes_the_target(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path / "whole", nepoch=4).train()
    psnr = [float(row["psnr"]) for row in tiny.metrics_rows(tmp_path / "whole")]
    first = next(epoch for epoch in range(1, 4) if psnr[epoch] > max(psnr[:epoch]))
    target = (psnr[first] + max(psnr[:first])) / 2
    trainer = tiny.make_trainer(scene_root, tmp_path / "cut", nepoch=4, stop=StopRule(target_psnr=target))
    assert trainer.train() == (first == 3)
    assert (trainer.state.epoch, trainer.state.step) == (first + 1, 0)
    assert f"{psnr[first]:.2f} dB, passed --target_psnr" in trainer.stop.reason


def test_nothing_seen_reaches_no_target() -> None:
    rule = StopRule(target_psnr=-100.0)
    rule.record_epoch(math.nan)
    assert not rule.is_met


def test_the_command_prints_why_it_stopped(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_conf(scene_root / "tiny.conf")
    exps = tmp_path / "exps"
    line = [*tiny.command(scene_root, "--max_minutes", "1e-6", nepoch=3), "--exps_folder", str(exps)]
    assert train.main(line) == 0
    run = tiny.only_run(exps)
    assert (
        f"stopped in epoch 0, step 1: --max_minutes 1e-06 are over; the state is saved in {run}/checkpoints\n"
        f"to go on: the same command with --is_continue --timestamp {run.name}"
    ) in capsys.readouterr().out
    assert train.main([*line, "--is_continue"]) == 0
    assert "stopped in epoch 0, step 2" in capsys.readouterr().out


def test_limits_out_of_range_are_refused(
    scene_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*tiny.command(scene_root, "--max_minutes", "0"), "--exps_folder", str(tmp_path / "exps")]
    assert train.main(line) == 2
    assert "error: --max_minutes 0: expected a number" in capsys.readouterr().err
    for flag, value in (("--max_minutes", "nan"), ("--target_psnr", "inf")):
        with pytest.raises(SystemExit, match="2"):
            train.main([*line, flag, value])
        assert f"argument {flag}: {value}: expected a finite number" in capsys.readouterr().err
    assert not (tmp_path / "exps").exists()
