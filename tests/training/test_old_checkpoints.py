"""Checkpoints and confs of an earlier version continue to the same weights.

``data/<case>/`` holds ``run.conf`` with the keys of that version, a checkpoint that it saved within the
second epoch (``dtu``: between epochs), and ``end.pth``, its weights after three epochs without an
interruption.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from idr.checkpoints.folder import CheckpointFolder
from idr.checkpoints.format import read_content
from tests.training import tiny

DATA = Path(__file__).parent / "data"
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "accelerated": {},
    "hashgrid": {"batch_size": 2},
    "orbit": {"cameras": True, "batch_size": 2},
    "dtu": {"cameras": True},
}
POSITIONS = {"published": (1, 2), "accelerated": (1, 2), "hashgrid": (1, 1), "orbit": (1, 1), "dtu": (1, 0)}
TOLERANCE = 2e-4
"""On another machine: sums in another order differ by 1e-7, which fifteen Adam steps of 1e-3 may turn into a
part of a step where a ray's hit flips."""
ACCELERATED = {"accelerated": 1e-3, "hashgrid": 5e-3}
"""Tolerances of one Adam step where the accelerated tracer traces: it samples fewer local minima of f than
the version that wrote the files, so the points of rays that miss differ within the tracers' contract."""


@pytest.mark.parametrize("case", CASES)
def test_an_old_checkpoint_continues_to_the_same_weights(
    scene_root: Path, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(DATA / case / "checkpoints", tmp_path / "checkpoints")
    conf = (DATA / case / "run.conf").read_text()
    trainer = tiny.make_trainer(scene_root, tmp_path, nepoch=3, conf=conf, **CASES[case])
    name = CheckpointFolder(tmp_path / "checkpoints").resolve()
    caplog.clear()
    trainer.resume(trainer.checkpoints, name, keep_seed=False)
    assert caplog.records == []  # nothing starts anew
    assert (trainer.state.epoch, trainer.state.step) == POSITIONS[case]
    assert trainer.train()
    end = read_content(DATA / case / "end.pth")
    tolerance = ACCELERATED.get(case, TOLERANCE)
    ours = {"model_state_dict": trainer.state.model.state_dict()}
    if trainer.state.poses is not None:
        ours["poses"] = {"poses": trainer.state.poses.vectors()}
        end["poses"] = {"poses": end["poses"]}
    if trainer.state.intrinsics is not None:
        ours["intrinsics"] = trainer.state.intrinsics.weights()
    assert list(ours) == list(end)
    for group, expected in end.items():
        for key, value in expected.items():
            assert float((ours[group][key].detach() - value).abs().max()) <= tolerance, (group, key)


def test_the_data_is_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 1_000_000


def test_files_of_the_earlier_writer_are_read() -> None:
    """It wrote the same format by hand."""
    files = sorted((DATA / "orbit" / "checkpoints").rglob("*.pth"))
    assert {path.parent.name for path in files} >= {"ModelParameters", "CameraState", "TrainerState"}
    assert all(read_content(path)["epoch"] == 1 for path in files)


def test_old_keys_of_confs_keep_working(caplog: pytest.LogCaptureFixture) -> None:
    from idr.conf.files import load_conf, read_block
    from idr.training.config import TrainConfig

    hashgrid, orbit = (
        read_block(TrainConfig, load_conf((DATA / case / "run.conf").read_text())["train"], "train")
        for case in ("hashgrid", "orbit")
    )
    assert hashgrid.max_grad_norm == 0.5 and hashgrid.schedule.color_levels is not None
    group = hashgrid.schedule.param_groups.color_encoding
    assert group is not None and group.factor == 5
    assert orbit.cameras.preconditioner == "full" and orbit.cameras.freeze_centers_until == 0.3
    for old in ("longest_gradient", "parts", "colour_levels", "colour_encoding", "moments", "hold_centres"):
        assert old in caplog.text
