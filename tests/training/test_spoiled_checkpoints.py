"""Every key of every part of a checkpoint, spoiled in ten ways, is refused when training continues."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from idr.checkpoints.folder import CheckpointFolder
from idr.checkpoints.parts import check_intrinsics, pose_vectors
from idr.errors import InputError
from tests.training import tiny
from tests.training.test_resume import AS_IN_FAST_CONF, EXPOSURES

ORBIT = """
train.schedule.color_levels { start = 1, begin = 0.1, end = 0.5 }
train.cameras {
  poses = orbit, preconditioner = full, frozen = first, focal = shared, principal_point = per_image
}
model.ray_tracer.strategy = accelerated
"""
CONFS = {
    "all features": tiny.conf_text() + tiny.SCHEDULE + AS_IN_FAST_CONF + ORBIT + EXPOSURES,
    "quaternions": tiny.conf_text(),
}
PARTS = [
    *(
        ("all features", part)
        for part in (
            "ModelParameters", "OptimizerParameters", "SchedulerParameters", "CamParameters", "TrainerState",
            "TracerState", "CameraState", "RecipeState", "ExposureState",
        )
    ),
    ("quaternions", "OptimizerCamParameters"),
]  # fmt: skip

MISSING = object()
HUGE = 10**400

OPTIONAL = {"batch_size", "averages", "scale_mat", "error_maps", "open_levels", "open_color_levels", "traced"}
"""Keys that other confs or earlier versions leave out."""
NON_NEGATIVE = {
    "epoch", "step", "seed", "batch_size", "steps", "error", "error_maps", "open_levels", "open_color_levels",
    "exp_avg_sq", "counts", "lr", "betas", "eps", "gamma", "base_lrs", "last_epoch", "milestones", "radius",
    "errors", "lipschitz", "num_evaluations", "age", "excess", "level", "report", "traced",
}  # fmt: skip
BOUNDED = {
    "radius",
    "epoch",
    "step",
    "batch_size",
    "steps",
    "betas",
    "error_maps",
    "open_levels",
    "level",
    "last_epoch",
}
"""Keys whose values have an upper bound, or become floats."""


@pytest.fixture(scope="module")
def runs(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By conf: a trainer, and the parts of its checkpoint within an epoch."""
    found = {}
    for name, conf in CONFS.items():
        run = tmp_path_factory.mktemp("run")
        options: dict[str, Any] = {"cameras": True, "batch_size": 2, "conf": conf, "nepoch": 3}
        assert not tiny.make_trainer(scene_root, run, loss=tiny.interrupted_at(4), **options).train()
        found[name] = tiny.make_trainer(scene_root, run, **options), tiny.parts_of(run)
    return found


def keys_of(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all keys; of numbered parameters, list items and weights, which are alike, the first."""
    items = list(content.items()) if isinstance(content, Mapping) else list(enumerate(content))
    alike = not all(isinstance(key, str) for key, _ in items) or path[-1:] == ("model_state_dict",)
    for key, value in items[:1] if alike else items:
        yield (*path, key)
        if isinstance(value, (Mapping, list, tuple)):
            yield from keys_of(value, (*path, key))


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value, or none, at a path."""
    content = copy.copy(content)
    if isinstance(content, tuple):
        content = list(content)
    new = value if len(path) == 1 else replaced(content[path[0]], path[1:], value)
    if new is MISSING:
        del content[path[0]]
    else:
        content[path[0]] = new
    return content


def ways_to_spoil(value: Any, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Values that a key must not have, by name."""
    key = names[-1]
    is_flag = isinstance(value, bool) or value is None
    yield "text", "spoiled" if not isinstance(value, str) else 3
    if not is_flag and key != "error":
        yield "None", None
    yield "sparse", torch.ones(2, 2).to_sparse()
    yield "quantized", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    yield "complex", torch.tensor(1j)
    yield "integers", torch.ones(3, 2, dtype=torch.int64)
    if not is_flag:
        yield "bool", True
    if isinstance(value, torch.Tensor):
        for name, filler in (("nan", float("nan")), ("inf", float("inf"))):
            yield name, torch.full_like(value, filler)
        yield "other dtype", value.to(torch.complex64)
        yield "bool tensor", value > 0
        yield "without values", value.to("meta")
        if key != "error_maps":  # those of other views start anew, with a warning
            yield "other shape", torch.ones(7, *value.shape)
        if key in NON_NEGATIVE:
            yield "negative", torch.full_like(value, -1.0)
        if key in BOUNDED:
            yield "huge", torch.full_like(value, 1e30)
        if "pose_vecs_state_dict" in names or key == "start":
            yield "zero quaternions", torch.zeros_like(value)
    else:
        yield "nan", float("nan")
        yield "inf", float("inf")
        if is_number(value):
            yield "other shape", [value, value]
            if any(name in NON_NEGATIVE for name in names[-2:]):
                yield "negative", -3
            if any(name in BOUNDED for name in names[-2:]):
                yield "huge", HUGE


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def may_be_missing(part: str, path: tuple[Any, ...]) -> bool:
    """Whether a checkpoint may lack a key."""
    name = path[-1]
    if not isinstance(name, str):
        return "betas" not in path  # of a list or of parameters, some remain
    if part == "SchedulerParameters":
        return name.startswith("_")
    if "param_groups" in path and name != "param_groups":
        return name not in ("params", "lr")
    return name in OPTIONAL or "losses" in path[:-1]


@pytest.mark.parametrize(("conf", "part"), PARTS, ids=[part for _, part in PARTS])
def test_a_spoiled_key_is_refused(runs: dict[str, Any], tmp_path: Path, conf: str, part: str) -> None:
    trainer, parts = runs[conf]
    for name, content in parts.items():
        (tmp_path / name).mkdir()
        torch.save(content, tmp_path / name / "latest.pth", _use_new_zipfile_serialization=False)
    files, before = sorted(tmp_path.rglob("*")), tiny.tree_digest(trainer.outputs.run)
    source = CheckpointFolder(tmp_path)
    trainer.resume(source, "latest", keep_seed=False)  # sound as it is
    count = 0
    for path in keys_of(parts[part]):
        names = [key for key in path if isinstance(key, str)]
        ways = dict(ways_to_spoil(at(parts[part], path), names))
        if not may_be_missing(part, path):
            ways["missing"] = MISSING
        for way, value in ways.items():
            spoiled = replaced(parts[part], path, value)
            torch.save(spoiled, tmp_path / part / "latest.pth", _use_new_zipfile_serialization=False)
            try:
                trainer.resume(source, "latest", keep_seed=False)
            except InputError as error:
                message = str(error)
            else:
                raise AssertionError(f"{part}, {path}: {way} was accepted")
            assert part in message, (path, way, message)
            assert any(name in message for name in names[-2:]), (path, way, message)
            count += 1
    assert count >= 20
    assert sorted(tmp_path.rglob("*")) == files and tiny.tree_digest(trainer.outputs.run) == before


def test_checks_for_evaluation(runs: dict[str, Any]) -> None:
    _, parts = runs["all features"]
    assert pose_vectors(parts["CamParameters"], "here").shape == (5, 7)
    check_intrinsics(parts["CameraState"], "here")
    table = {"weight": torch.zeros(5, 7)}
    with pytest.raises(InputError, match=r"here, CamParameters\.pose_vecs.*: got .*quaternions that are"):
        pose_vectors({"pose_vecs_state_dict": table}, "here")
    initial = {"given_intrinsics": parts["CameraState"]["given_intrinsics"]}
    with pytest.raises(InputError, match=r"here, CameraState\.intrinsics\.focal: got .*tensor \(3, 1\)"):
        check_intrinsics({**initial, "intrinsics": {"focal": torch.zeros(3, 1)}}, "here")


def test_a_step_beyond_the_epoch_is_refused(runs: dict[str, Any]) -> None:
    trainer, parts = runs["quaternions"]
    spoiled = {**parts, "TrainerState": {**parts["TrainerState"], "step": 3}}
    with pytest.raises(InputError, match=r"TrainerState\.step: got 3; expected 0 to 2, as an epoch of this"):
        trainer.state.load_position(spoiled, "here", trainer.rays.steps_per_epoch, keep_seed=False)
