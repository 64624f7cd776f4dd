"""`benchmarks/train_step.py --run`: steps resume from the run's state, not from a fresh optimizer."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.training import tiny

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TRAIN = "alpha_milestones = [1], alpha_factor = 2, sched_milestones = [1], sched_factor = 0.5"


@pytest.fixture
def train_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train_step

    return train_step


def arguments(conf: Path, **others: object) -> argparse.Namespace:
    return argparse.Namespace(
        **{"conf": str(conf), "overrides": [], "run": None, "learning_rate": None, **others}
    )


def test_steps_resume_from_the_state_of_the_run(train_step, tmp_path: Path) -> None:
    tiny.write_scene(tmp_path / "data")
    conf = tiny.write_conf(tmp_path / "tiny.conf", train=TRAIN)
    run = tmp_path / "run"
    trainer = tiny.make_trainer(tmp_path, run, nepoch=2, conf=conf.read_text())
    assert trainer.train()

    first_alpha = trainer.schedule.at(0, 0).alpha
    begun = train_step.Contender("accelerated", arguments(conf))
    assert begun.loss.alpha == first_alpha and not begun.optimizer.state

    late = train_step.Contender("accelerated", arguments(conf, run=str(run)))
    saved = trainer.state
    assert late.loss.alpha == 2 * first_alpha
    assert tiny.same(late.model.state_dict(), saved.model.state_dict())
    assert late.optimizer.param_groups[0]["lr"] == saved.optimizer.param_groups[0]["lr"]
    moments = [[group[key] for key in ("exp_avg", "exp_avg_sq")] for group in saved.optimizer.state.values()]
    mine = [[group[key] for key in ("exp_avg", "exp_avg_sq")] for group in late.optimizer.state.values()]
    assert moments and tiny.same(mine, moments)
    assert tiny.same(late.model.tracer_state(), saved.model.tracer_state())

    other_rate = train_step.Contender("accelerated", arguments(conf, run=str(run), learning_rate=1e-5))
    assert other_rate.optimizer.param_groups[0]["lr"] == 1e-5
