"""The state of sampler and schedule in checkpoints, and runs whose conf changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reads import ReadCounter
from tests.training import tiny
from tests.training.schedule.test_by_epoch import config
from tests.training.test_resume import as_published

from idr.conf.files import load_conf, read_block
from idr.errors import InputError
from idr.model.encodings.hashgrid import HashGrid, HashGridConfig
from idr.model.encodings.levels import find_encoding, load_open_levels, open_levels
from idr.runs.run import Run
from idr.training.optimizers import make_optimizer
from idr.training.schedule.by_step import Schedule
from idr.training.schedule.checks import check_schedule
from idr.training.schedule.config import ScheduleConfig
from idr.training.trainer import Trainer

PLAIN = tiny.conf_text() + tiny.GRID
WITH_SCHEDULE = tiny.conf_text() + tiny.SCHEDULE


def continued(root: Path, run: Path, conf: str, nepoch: int = 2) -> Trainer:
    """A new trainer of another conf that loaded a run's latest checkpoint."""
    trainer = tiny.make_trainer(root, run, nepoch=nepoch, conf=conf)
    trainer.resume(trainer.checkpoints, "latest", keep_seed=False)
    return trainer


def slots(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Adam's state by the parameter's name."""
    names = {parameter: name for name, parameter in trainer.state.model.named_parameters()}
    return {names[parameter]: slot for parameter, slot in trainer.state.optimizer.state.items()}


def test_the_part_exists_if_there_is_state(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path / "schedule", nepoch=2, conf=WITH_SCHEDULE).train()
    kept = tiny.parts_of(tmp_path / "schedule", "1")["RecipeState"]
    assert set(kept) == {"epoch", "error_maps", "open_levels"}
    assert kept["error_maps"].shape == (5, 3, 4)  # 12 x 16 pixels in cells of 4
    assert bool((kept["error_maps"] < 1).reshape(5, -1).any(dim=1).all())  # every view was learnt from
    assert kept["open_levels"] == pytest.approx(1.5 + 1.5 * (0.4 - 0.1) / 0.6)  # of the fifth of ten steps
    tiny.make_trainer(scene_root, tmp_path / "plain", nepoch=1, conf=PLAIN).train()
    assert "RecipeState" not in tiny.parts_of(tmp_path / "plain")


def test_a_run_continues_with_param_groups_and_without(
    scene_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Adam's moments stay with their parameters, its constants and learning rates are the conf's."""
    first = tiny.make_trainer(scene_root, tmp_path, nepoch=1, conf=PLAIN)
    first.train()
    parts = continued(scene_root, tmp_path, WITH_SCHEDULE)
    assert "Adam's parameter groups are now those of train.schedule.param_groups" in caplog.text
    assert "holds no error maps: those of train.sampler start anew" in caplog.text
    before, after = slots(first), slots(parts)
    assert list(before) == list(after)
    for name in before:
        assert torch.equal(before[name]["exp_avg"], after[name]["exp_avg"])
        assert torch.equal(before[name]["exp_avg_sq"], after[name]["exp_avg_sq"])
    group = parts.state.optimizer.param_groups[0]
    assert (group["name"], group["betas"], group["initial_lr"]) == ("encoding", (0.8, 0.99), 3e-3)
    assert parts.train()

    back = continued(scene_root, tmp_path, PLAIN, nepoch=3)
    (group,) = back.state.optimizer.param_groups
    assert (group["betas"], group["lr"]) == ((0.9, 0.999), 1e-3)
    assert list(slots(back)) == list(slots(parts)) and back.train()


def test_param_groups_load_a_published_optimizer(scene_root: Path, tmp_path: Path) -> None:
    """It numbers parameters by addresses, and knows one group."""
    first = tiny.make_trainer(scene_root, tmp_path / "first", nepoch=1, conf=PLAIN)
    first.train()
    parts = as_published(tiny.parts_of(tmp_path / "first"))
    trainer = tiny.make_trainer(scene_root, tmp_path / "next", conf=WITH_SCHEDULE)
    trainer.state.load_parts(parts, "theirs")
    before, after = slots(first), slots(trainer)
    assert all(torch.equal(before[name]["exp_avg"], after[name]["exp_avg"]) for name in before)


def test_changed_adam_settings_are_those_of_the_conf(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path, nepoch=1, conf=WITH_SCHEDULE).train()
    changed = WITH_SCHEDULE + "\ntrain.schedule.param_groups.encoding { factor = 2, betas = [0.7, 0.9] }\n"
    group = continued(scene_root, tmp_path, changed).state.optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["initial_lr"]) == ((0.7, 0.9), 1e-12, 2e-3)


def test_groups_of_equal_size_and_another_name_are_those_of_the_conf(
    scene_root: Path, tmp_path: Path
) -> None:
    """The three groups have the sizes of before and other names."""
    tiny.make_trainer(scene_root, tmp_path, nepoch=1, conf=WITH_SCHEDULE).train()
    parts = "schedule.param_groups { encoding.factor = 3, implicit_network.factor = 2 }"
    changed = tiny.conf_text(parts) + tiny.GRID
    groups = continued(scene_root, tmp_path, changed).state.optimizer.param_groups
    assert [(g["name"], g["betas"], g["lr"]) for g in groups] == [
        ("encoding", (0.9, 0.999), pytest.approx(3e-3)),
        ("implicit_network", (0.9, 0.999), pytest.approx(2e-3)),
        ("others", (0.9, 0.999), pytest.approx(1e-3)),
    ]


def test_levels_follow_the_step_if_the_checkpoint_has_none(scene_root: Path, tmp_path: Path) -> None:
    tiny.make_trainer(scene_root, tmp_path, nepoch=1, conf=PLAIN).train()
    levels = "\ntrain.schedule { steps = 10, levels { start = 1, end = 1 } }\n"
    trainer = continued(scene_root, tmp_path, PLAIN + levels)
    assert find_encoding(trainer.state.model).open_levels == 2  # type: ignore[union-attr]


def test_maps_of_other_cells_start_anew(
    scene_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.make_trainer(scene_root, tmp_path, nepoch=1, conf=WITH_SCHEDULE).train()
    trainer = continued(scene_root, tmp_path, WITH_SCHEDULE + "\ntrain.sampler.error_cell = 8\n")
    assert "holds other views' or cells' error maps: those of train.sampler start anew" in caplog.text
    assert bool((trainer.state.error_maps.maps == 1).all())  # type: ignore[union-attr]


def test_levels_that_were_closed_stay_closed_in_evaluation(scene_root: Path, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=2, conf=WITH_SCHEDULE)
    trainer.train()
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    loaded = Run(load_conf(WITH_SCHEDULE), tmp_path, "1", torch.device("cpu")).model
    kept = tiny.parts_of(tmp_path, "1")["RecipeState"]["open_levels"]
    assert find_encoding(loaded).open_levels == kept < 3  # type: ignore[union-attr]
    trainer = continued(scene_root, tmp_path, WITH_SCHEDULE)
    trainer.resume(trainer.checkpoints, "1", keep_seed=False)
    with torch.no_grad():
        assert torch.equal(trainer.state.model.implicit_network(points), loaded.implicit_network(points))
    last = Run(load_conf(WITH_SCHEDULE), tmp_path, "2", torch.device("cpu")).model
    assert 2.9 < find_encoding(last).open_levels <= 3  # type: ignore[union-attr]


class Colored(torch.nn.Module):
    """Two networks, each with an encoding of points."""

    def __init__(self) -> None:
        super().__init__()
        self.implicit_network, self.rendering_network = (torch.nn.Linear(3, 3) for _ in range(2))
        for network, levels in ((self.implicit_network, 6), (self.rendering_network, 4)):
            config = HashGridConfig(levels=levels, log2_table=4, base_resolution=2, finest_resolution=8)
            network.encoding = HashGrid(config)


def test_a_backend_that_cannot_compute_on_the_device_is_refused_before_training() -> None:
    model = Colored()
    check_schedule(config(), None, model, None)
    grid = model.rendering_network.encoding
    grid.config = dataclasses.replace(grid.config, backend="numba")
    model.double()
    with pytest.raises(InputError, match=r"numba: points are torch\.float64 on cpu.*backend = auto"):
        check_schedule(config(), None, model, None)


def test_levels_and_learning_rates_of_a_color_encoding() -> None:
    """Settings of a schedule on one model come back from the checkpoint on another."""
    model, other = Colored(), Colored()
    block = {
        "levels": {"start": 2, "end": 1},
        "color_levels": {"start": 0, "begin": 0.5, "end": 1},
        "param_groups": {"encoding": {"factor": 3}, "color_encoding": {"factor": 7}},
    }
    train = config(schedule=read_block(ScheduleConfig, block, "train.schedule"))
    check_schedule(train, None, model, None)
    optimizer = make_optimizer(model, train)
    sizes = {group["name"]: (group["lr"], len(group["params"])) for group in optimizer.param_groups}
    assert sizes["encoding"] == (pytest.approx(3e-4), 1)
    assert sizes["color_encoding"] == (pytest.approx(7e-4), 1) and sizes["others"] == (1e-4, 2)

    settings = Schedule(train, 4, 5, 50.0, model).at(3, 0)
    for network, levels in settings.open_levels.items():
        find_encoding(model, network).set_open_levels(levels)  # type: ignore[union-attr]
    kept = open_levels(model, train.schedule.openings)
    assert kept == {"open_levels": 5.0, "open_color_levels": 2.0}
    load_open_levels(other, kept)
    assert open_levels(other, train.schedule.openings) == kept
    load_open_levels(other, {})
    assert open_levels(other, ["rendering_network"]) == {"open_color_levels": 2.0}


def test_the_sampler_adds_no_read_but_that_of_its_residuals(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else of it runs on the host, on the host's own tensors."""
    trainer = tiny.make_trainer(scene_root, tmp_path, conf=WITH_SCHEDULE)
    batch = next(iter(trainer.rays.batches(0, 0, 0)))
    trainer.state.model.train()
    outputs = trainer.model(dict(batch.model_input))
    taken: list[torch.Tensor] = []
    maps = trainer.rays.error_maps
    monkeypatch.setattr(maps, "update", lambda cells, residuals: taken.append(residuals))
    with ReadCounter() as counter:
        trainer.rays.update_errors(batch, outputs)
    assert counter.places == [] and taken[0].shape == (outputs["points"].shape[0],)
