from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training import tiny

from idr.training.config import TrainConfig
from idr.training.schedule.by_epoch import alpha_at, camera_learning_rate_at, learning_rate_at

MILESTONES = st.lists(st.integers(0, 12), max_size=5)
FACTORS = st.sampled_from([0.5, 0.3, 0.1, 1.0, 2.0, 0.7])


def config(**values: object) -> TrainConfig:
    names = {name: "x" for name in ("expname", "dataset_class", "model_class", "loss_class")}
    return TrainConfig(**names, learning_rate=1e-4, num_pixels=1, **values)  # type: ignore[arg-type]


def test_published_dtu_schedule() -> None:
    """Alpha 50, doubling at 250, 500, ..., 1250; 1e-4 halved at 1000 and 1500 (the published conf)."""
    dtu = config(
        alpha_milestones=(250, 500, 750, 1000, 1250),
        alpha_factor=2.0,
        sched_milestones=(1000, 1500),
        sched_factor=0.5,
    )
    epochs = (0, 249, 250, 999, 1000, 1250, 1499, 1500, 2000)
    assert [alpha_at(e, 50.0, dtu) for e in epochs] == [50, 50, 100, 400, 800, 1600, 1600, 1600, 1600]
    rates = [learning_rate_at(e, dtu) for e in epochs]
    assert rates == [1e-4, 1e-4, 1e-4, 1e-4, 5e-5, 5e-5, 5e-5, 2.5e-5, 2.5e-5]


@given(milestones=MILESTONES, factor=FACTORS)
def test_alpha_against_a_walk_through_the_epochs(milestones: list[int], factor: float) -> None:
    alpha, schedule = 50.0, config(alpha_milestones=tuple(milestones), alpha_factor=factor)
    for epoch in range(15):
        for milestone in milestones:
            alpha *= factor if milestone == epoch else 1.0
        assert alpha_at(epoch, 50.0, schedule) == pytest.approx(alpha, rel=1e-14)  # a power against a product


@settings(deadline=None, max_examples=25)
@given(milestones=MILESTONES, factor=FACTORS)
def test_learning_rate_has_the_bits_of_torchs_schedule(milestones: list[int], factor: float) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=factor)
    schedule = config(sched_milestones=tuple(milestones), sched_factor=factor)
    for epoch in range(15):
        assert optimizer.param_groups[0]["lr"] == learning_rate_at(epoch, schedule)
        optimizer.step()
        scheduler.step()


def test_camera_learning_rate_is_constant_unless_the_conf_changes_it() -> None:
    assert [camera_learning_rate_at(e, config(learning_rate_cam=1e-4)) for e in (0, 7, 2000)] == [1e-4] * 3
    schedule = config(
        learning_rate_cam=1e-4, cam_warmup_epochs=3, cam_sched_milestones=(5, 6), cam_sched_factor=0.5
    )
    rates = [camera_learning_rate_at(e, schedule) for e in range(8)]
    assert rates == [0, 0, 0, 1e-4, 1e-4, 5e-5, 2.5e-5, 2.5e-5]
    assert camera_learning_rate_at(0, config()) == 0.0


def trained_rates(
    root: Path, run: Path, stops: tuple[int, ...], conf: str
) -> list[tuple[float, float, float]]:
    """Trains up to each epoch of `stops` in turn; returns alpha and learning rates of each step."""
    used: list[tuple[float, float, float]] = []
    for stop in stops:
        trainer = tiny.make_trainer(root, run, nepoch=stop, cameras=True, batch_size=5, conf=conf)
        inner = trainer.loss
        trainer.loss = tiny.WatchedLoss(
            inner,
            lambda _, inner=inner, state=trainer.state: used.append(  # type: ignore[misc]
                (
                    inner.alpha,
                    *(o.param_groups[0]["lr"] for o in (state.optimizer, state.cameras.pose_optimizer)),
                )
            ),
        )
        if trainer.checkpoints.names():
            trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
        assert trainer.train()
    return used


def test_trainer_follows_the_schedules_one_step_an_epoch_and_resumed(
    scene_root: Path, tmp_path: Path
) -> None:
    conf = tiny.conf_text(
        "checkpoint_freq = 100, cam_warmup_epochs = 2, cam_sched_milestones = [4], cam_sched_factor = 0.5"
    )
    expected, alpha, rate = [], 50.0, 1e-3
    for epoch in range(7):  # milestones: alpha 2, 4 times 2; rate 3, 5 times 0.3
        alpha *= 2 if epoch in (2, 4) else 1
        rate *= 0.3 if epoch in (3, 5) else 1
        expected.append((alpha, rate, 0.0 if epoch < 2 else 1e-3 if epoch < 4 else 5e-4))
    at_once = trained_rates(scene_root, tmp_path / "at_once", (7,), conf)
    assert at_once == expected
    assert trained_rates(scene_root, tmp_path / "in_parts", (1, 3, 4, 7), conf) == expected
    rows = tiny.metrics_rows(tmp_path / "in_parts")
    written = [(float(r["alpha"]), float(r["learning_rate"])) for r in rows]
    assert written == [
        (pytest.approx(alpha), pytest.approx(rate)) for alpha, rate, _ in expected
    ]  # six digits


def test_poses_keep_their_bits_during_warm_up(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text("cam_warmup_epochs = 1")
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=2, cameras=True, conf=conf)
    start = trainer.dataset.get_pose_init()
    trainer.train()
    poses = [
        tiny.parts_of(tmp_path, n)["CamParameters"]["pose_vecs_state_dict"]["weight"] for n in ("0", "1", "2")
    ]
    assert torch.equal(poses[0], start) and torch.equal(poses[1], start)
    assert (poses[2] != start).any(dim=1).all()


def test_learning_rate_can_be_changed_when_a_run_goes_on(
    scene_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.make_trainer(scene_root, tmp_path, nepoch=1).train()
    changed = tiny.conf_text("learning_rate = 2.0e-4, sched_milestones = [2]")
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=3, conf=changed)
    trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
    assert "learning rate 0.001 goes on as 0.0002, after the conf" in caplog.text
    trainer.train()
    assert [float(r["learning_rate"]) for r in tiny.metrics_rows(tmp_path)] == [
        1e-3,
        2e-4,
        pytest.approx(6e-5),
    ]
