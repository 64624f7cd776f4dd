"""Schedules of steps: values at the ends and between, and what a trainer makes of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training import tiny
from tests.training.schedule.test_by_epoch import config

from idr.conf.files import load_conf, read_block
from idr.errors import InputError
from idr.model.encodings.levels import find_encoding
from idr.training.config import TrainConfig
from idr.training.optimizers import clip_gradients
from idr.training.schedule.by_step import (
    Schedule,
    alpha_in,
    open_levels_in,
    rate_factor,
    reduction_in,
)
from idr.training.schedule.config import (
    AlphaSchedule,
    LevelSchedule,
    PyramidSchedule,
    RateSchedule,
    ScheduleConfig,
)

TIMES = st.floats(0, 1)
ARC = 0.45 * math.sqrt(0.5)


@pytest.mark.parametrize(
    ("schedule", "expected"),  # at 0, 1/4, 1/2, 3/4, 1
    [
        (RateSchedule("cosine", final=0.1), [1, 0.55 + ARC, 0.55, 0.55 - ARC, 0.1]),
        (RateSchedule("cosine", hold=0.5, final=0), [1, 1, 1, 0.5, 0]),
        (RateSchedule("exponential", final=0.01), [1, 10**-0.5, 0.1, 10**-1.5, 0.01]),
        (RateSchedule("exponential", warmup=0.5, final=0.01), [0.02, 0.52, 1, 0.1, 0.01]),
        (RateSchedule("none", warmup=0.25), [0.04, 1, 1, 1, 1]),
    ],
    ids=["cosine", "held", "exponential", "warm-up", "none"],
)  # fmt: skip
def test_rates_at_the_ends_and_between(schedule: RateSchedule, expected: list[float]) -> None:
    """A step is a hundredth of the schedule; in a warm-up the step under way counts as done."""
    for time, value in zip((0, 0.25, 0.5, 0.75, 1), expected, strict=True):
        assert rate_factor(time, 0.01, schedule) == pytest.approx(value, rel=1e-12, abs=1e-15)


@given(st.sampled_from(["cosine", "exponential"]), TIMES, TIMES, TIMES, TIMES)
def test_a_rate_rises_and_then_falls(kind: Any, warmup: float, hold: float, one: float, two: float) -> None:
    schedule = RateSchedule(kind, warmup, hold, 0.05)
    first, second = (rate_factor(time, 1e-3, schedule) for time in sorted((one, two)))
    assert 0 < first <= 1 and 0 < second <= 1
    if max(one, two) < warmup:
        assert first <= second
    elif min(one, two) >= warmup:
        assert first >= second >= 0.05 * (1 - 1e-12)


def test_alpha_grows_by_equal_factors_in_equal_times() -> None:
    schedule = AlphaSchedule(final=1600, begin=0.2, end=0.7)
    values = [alpha_in(time, 50, schedule) for time in (0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1)]
    assert values == pytest.approx([50, 50, 100, 200, 400, 800, 1600, 1600], rel=1e-12)


def test_levels_open_evenly_between_begin_and_end() -> None:
    schedule = LevelSchedule(start=4, begin=0.25, end=0.75)
    times = (0, 0.25, 0.375, 0.5, 0.75, 1)
    assert [open_levels_in(time, 12, schedule) for time in times] == [4, 4, 6, 8, 12, 12]
    assert open_levels_in(0.5, 12, LevelSchedule(start=4, begin=0.5, end=0.5)) == 12  # all at once


def test_reductions_follow_their_times() -> None:
    schedule = PyramidSchedule((8, 4, 2), (0.1, 0.1, 0.5))
    found = [reduction_in(time, schedule) for time in (0, 0.0999, 0.1, 0.4, 0.5, 1)]
    assert found == [8, 8, 2, 2, 1, 1]  # 4 has no time at all


def test_time_counts_all_epochs_or_the_steps_of_the_conf() -> None:
    whole = Schedule(config(), 4, 5, 50.0, None)
    assert [whole.time(*place) for place in ((0, 0), (1, 0), (3, 4), (4, 0), (9, 0))] == [
        0, 0.25, 0.95, 1, 1,
    ]  # fmt: skip
    short = Schedule(config(schedule=ScheduleConfig(steps=8)), 4, 5, 50.0, None)
    assert [short.time(*place) for place in ((0, 4), (1, 3), (2, 0))] == [0.5, 1, 1]


def conf_with_schedule() -> str:
    return tiny.conf_text("checkpoint_freq = 100, cam_warmup_epochs = 1") + tiny.SCHEDULE


def followed(root: Path, run: Path, stops: tuple[int, ...], nepoch: int) -> list[tuple[Any, ...]]:
    """Trains in parts that end at these calls; returns alpha, levels and learning rates of each step."""
    seen: list[tuple[Any, ...]] = []
    for stop in (*stops, None):
        trainer = tiny.make_trainer(
            root, run, nepoch=nepoch, cameras=True, batch_size=2, conf=conf_with_schedule()
        )
        inner, state = trainer.loss, trainer.state
        if trainer.checkpoints.names():
            trainer.resume(trainer.checkpoints, "latest", keep_seed=False)

        def record(call: int, inner: Any = inner, state: Any = state, stop: Any = stop) -> None:
            rates = [group["lr"] for group in state.optimizer.param_groups]
            camera = state.cameras.pose_optimizer.param_groups[0]["lr"]
            seen.append((inner.alpha, find_encoding(state.model).open_levels, *rates, camera))
            if call == stop:
                tiny.press_ctrl_c()

        trainer.loss = tiny.WatchedLoss(inner, record)
        assert trainer.train() == (stop is None)
    return seen


def test_a_trainer_follows_its_schedule_step_by_step_and_resumed(scene_root: Path, tmp_path: Path) -> None:
    """Four epochs of three steps; what is expected is worked out from the keys."""
    at_once = followed(scene_root, tmp_path / "at_once", (), 4)
    assert len(at_once) == 12
    for step, (alpha, levels, encoding, implicit, rendering, camera) in enumerate(at_once):
        time = step / 12
        fall = max(time - 0.1, 0) / 0.9
        factor = min((time + 1 / 12) / 0.1, 1) if time < 0.1 else 0.2 + 0.4 * (1 + math.cos(math.pi * fall))
        assert alpha == pytest.approx(50 * 6 ** min(time / 0.8, 1))
        assert levels == pytest.approx(1.5 + 1.5 * min(max(time - 0.1, 0) / 0.6, 1))
        assert [encoding, implicit, rendering] == pytest.approx([3e-3 * factor, 1e-3 * factor, 5e-4 * factor])
        camera_rate = 0.0 if step < 3 else 1e-3 * 0.5 ** (max(time - 0.3, 0) / 0.7)
        assert camera == pytest.approx(camera_rate)
    assert followed(scene_root, tmp_path / "in_parts", (2, 5), 4) == at_once
    rows = tiny.metrics_rows(tmp_path / "in_parts")
    assert float(rows[-1]["alpha"]) == pytest.approx(at_once[-1][0], rel=1e-5)
    assert [row["image_reduction"] for row in rows] == ["4", "2", "1", "1"]  # of steps 2, 5, 8 and 11
    levels = [float(row["open_levels"]) for row in rows]
    assert levels == pytest.approx([at_once[step][1] for step in (2, 5, 8, 11)], rel=1e-5)


def test_groups_have_adam_settings_of_their_own(scene_root: Path, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=conf_with_schedule())
    names = {id(parameter): name for name, parameter in trainer.state.model.named_parameters()}
    groups = trainer.state.optimizer.param_groups
    assert [(g["name"], g["betas"], g["eps"]) for g in groups] == [
        ("encoding", (0.8, 0.99), 1e-12),
        ("others", (0.9, 0.999), 1e-8),
        ("rendering_network", (0.9, 0.999), 1e-8),
    ]
    members = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    assert members[0] == ["implicit_network.encoding.table"]
    assert all(name.startswith("implicit_network.lin") for name in members[1])
    assert all(name.startswith("rendering_network.") for name in members[2])
    assert sum(members, []) == list(names.values())  # in the published order


def test_the_color_encoding_is_a_group_of_its_own(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text("schedule.param_groups { color_encoding.factor = 5, rendering_network.factor = 2 }")
    conf += tiny.GRID + "\nmodel.rendering_network.encoding { type = hashgrid, levels = 1, log2_table = 6 }\n"
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=conf)
    names = {id(parameter): name for name, parameter in trainer.state.model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"] / trainer.config.learning_rate
        for group in trainer.state.optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        name: 5 if name == "rendering_network.encoding.table" else 2 if name.startswith("rendering") else 1
        for name in names.values()
    }
    assert rates == pytest.approx(expected)


def test_fused_adam_takes_the_same_steps(scene_root: Path, tmp_path: Path) -> None:
    """With groups Adam runs fused; compared with torch's plain loop over parameters."""
    conf = tiny.conf_text("schedule.param_groups.rendering_network.factor = 0.5")
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=conf)
    fused = trainer.state.optimizer
    pairs = [
        (parameter, parameter.detach().clone(), group["lr"])
        for group in fused.param_groups
        for parameter in group["params"]
    ]
    plain = torch.optim.Adam([{"params": [copy], "lr": rate} for _, copy, rate in pairs], foreach=False)
    assert fused.defaults["fused"]
    for number in range(5):
        generator = torch.Generator().manual_seed(number)
        for parameter, copy, _ in pairs:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            copy.grad = parameter.grad.clone()
        fused.step()
        plain.step()
    for parameter, copy, _ in pairs:
        assert (parameter.detach() - copy).abs().max() < 1e-6  # float32, operations in another order


@pytest.mark.parametrize("length", [0.5, 7.0])
def test_clipped_gradients(scene_root: Path, tmp_path: Path, length: float) -> None:
    """Against a norm and a factor by hand; sparse gradients of cameras follow the model's."""
    trainer = tiny.make_trainer(scene_root, tmp_path, cameras=True)
    model, poses = trainer.state.model, trainer.state.poses
    assert poses is not None
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    total = sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5  # type: ignore[union-attr]
    for parameter in model.parameters():
        parameter.grad *= length / total
    poses(torch.tensor([1, 3])).sum().backward()
    (table,) = poses.parameters()
    before = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    clip_gradients(model, [poses], 1.0, torch.tensor(length))
    factor = min(1.0 / length, 1.0)
    for parameter, grad in zip(model.parameters(), before, strict=True):
        assert torch.allclose(parameter.grad, factor * grad, rtol=1e-4)  # type: ignore[arg-type]
    assert table.grad is not None and table.grad.is_sparse
    rows = table.grad.to_dense()
    assert torch.allclose(rows[[1, 3]], torch.full((2, rows.shape[1]), factor), rtol=1e-4)
    assert not rows[[0, 2, 4]].any()


def test_a_trainer_clips_gradients_at_max_grad_norm(scene_root: Path, tmp_path: Path) -> None:
    lengths = []
    for name, more in (("free", ""), ("short", "max_grad_norm = 0.125")):
        trainer = tiny.make_trainer(scene_root, tmp_path / name, conf=tiny.conf_text(more))

        def record(*_: Any, trainer: Any = trainer) -> None:
            grads = [p.grad.norm() for p in trainer.state.model.parameters() if p.grad is not None]
            lengths.append(float(torch.stack(grads).norm()))

        trainer.state.optimizer.register_step_pre_hook(record)
        trainer.train()
    free, short = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    assert max(free) > 0.2 and max(short) == pytest.approx(0.125, rel=1e-3)


def test_a_max_grad_norm_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"max_grad_norm = 0\.0: expected a norm above 0"):
        read_block(TrainConfig, {**load_conf(tiny.conf_text())["train"], "max_grad_norm": 0}, "train")


def test_milestones_lower_the_learning_rate_of_each_group(scene_root: Path, tmp_path: Path) -> None:
    conf = tiny.conf_text("sched_milestones = [1], schedule.param_groups.rendering_network.factor = 0.5")
    rates = []
    for nepoch in (1, 2):
        trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=nepoch, conf=conf)
        if nepoch > 1:
            trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
            rates.append([group["lr"] for group in trainer.state.optimizer.param_groups])
        trainer.train()
    assert rates == [pytest.approx([3e-4, 1.5e-4])]


BLOCKS = [
    ({"steps": 0}, r"steps = 0: expected 1 or more optimization steps"),
    ({"learning_rates": {}}, r"learning_rates: unknown key \(did you mean learning_rate\?\)"),
    ({"learning_rate": {"decay": "cosin"}}, r"learning_rate\.decay: got 'cosin'.*did you mean cosine\?"),
    ({"learning_rate": {"warmup": 2}}, r"learning_rate\.warmup = 2\.0: expected a fraction of the schedule"),
    (
        {"learning_rate": {"decay": "exponential", "final": 0}},
        r"final = 0: an exponential decay never reaches it",
    ),
    ({"alpha": {}}, r"alpha\.final: missing; expected a number"),
    ({"alpha": {"final": 0}}, r"alpha\.final = 0\.0: expected a sharpness above 0"),
    (
        {"levels": {"start": 4, "begin": 0.5, "end": 0.2}},
        r"levels\.end = 0\.2: expected no time before begin",
    ),
    ({"levels": {"strat": 4}}, r"levels\.strat: unknown key \(did you mean start\?\)"),
    (
        {"param_groups": {"encodings": {}}},
        r"param_groups\.encodings: unknown key \(did you mean encoding\?\)",
    ),
    (
        {"param_groups": {"encoding": {"factor": 0}}},
        r"param_groups\.encoding\.factor = 0\.0: expected a factor above 0",
    ),
    (
        {"param_groups": {"encoding": {"betas": [0.9, 1]}}},
        r"betas = \[0\.9, 1\.0\]: expected two numbers from 0",
    ),
]


@pytest.mark.parametrize(("block", "message"), BLOCKS, ids=[str(block) for block, _ in BLOCKS])
def test_a_block_that_is_wrong_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"train\.schedule\.(\w+\.)*" + message):
        read_block(ScheduleConfig, block, "train.schedule")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "levels.start = 1",
            r"model\.implicit_network has no encoding with levels; set .*type = hashgrid, or remove",
        ),
        (
            "param_groups.encoding.factor = 2",
            r"param_groups\.encoding: the model has no parameters .*encoding\.\*; leave",
        ),
    ],
)
def test_a_model_without_what_the_schedule_names_is_refused(
    scene_root: Path, tmp_path: Path, key: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny.make_trainer(scene_root, tmp_path, conf=tiny.conf_text(f"schedule.{key}"))


def test_more_levels_at_first_than_there_are_are_refused(scene_root: Path, tmp_path: Path) -> None:
    conf = conf_with_schedule() + "\ntrain.schedule.levels.start = 4\n"
    with pytest.raises(InputError, match=r"levels\.start = 4\.0: expected 0 to .*levels, 3"):
        tiny.make_trainer(scene_root, tmp_path, conf=conf)


def test_an_absent_block_and_an_empty_one_are_the_same() -> None:
    block = load_conf(tiny.conf_text())["train"]
    plain = read_block(TrainConfig, block, "train")
    empty = read_block(TrainConfig, {**block, "schedule": {}, "sampler": {}}, "train")
    assert plain == empty == dataclasses.replace(plain, schedule=ScheduleConfig())
