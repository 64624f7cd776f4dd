from __future__ import annotations

import io
import json
import os
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from idr.checkpoints.folder import STATE_KEYS, CheckpointFolder, checkpoint_name
from idr.checkpoints.format import read_content, write_content
from idr.errors import InputError, MissingInputError


def parts(epoch: int, *names: str) -> dict[str, dict[str, Any]]:
    names = names or ("ModelParameters", "OptimizerParameters", "TrainerState")
    return {
        part: {"epoch": epoch, STATE_KEYS[part] or "seed": {"w": torch.full((50,), float(epoch))}}
        for part in names
    }


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    for epoch in (0, 100, 200):
        checkpoints.save(str(epoch), epoch, 0, parts(epoch))
    return checkpoints


# ---- names


def test_names_of_sets() -> None:
    assert [checkpoint_name(0), checkpoint_name(7), checkpoint_name(7, 12)] == ["0", "7", "7_12"]


def test_what_is_saved_is_found(folder: CheckpointFolder) -> None:
    assert folder.names() == ["0", "100", "200"]
    assert folder.resolve() == folder.resolve("latest") == folder.resolve(200) == "200"
    assert folder.position_of(100) == (100, 0) and folder.epoch_of() == 200
    assert folder.load("ModelParameters", 100)["model_state_dict"]["w"][0] == 100
    assert folder.load("TrainerState", "latest")["seed"]["w"][0] == 200
    assert (
        folder.has("OptimizerParameters")
        and not folder.has("CamParameters")
        and not folder.has("CamParameters", 5)
    )
    assert set(folder.load_all()) == {"ModelParameters", "OptimizerParameters", "TrainerState"}


def test_save_inside_an_epoch(folder: CheckpointFolder) -> None:
    folder.save("200_9", 200, 9, parts(200))
    folder.save("200_30", 200, 30, parts(200))
    assert folder.resolve() == "200_30" and folder.position_of() == (200, 30)


def test_latest_is_the_one_saved_last_also_after_going_back(folder: CheckpointFolder) -> None:
    folder.save("110", 110, 0, parts(110))
    assert folder.resolve() == "110" and folder.epoch_of("latest") == 110
    latest = torch.load(folder.path / "ModelParameters" / "latest.pth")
    assert latest["epoch"] == 110  # the published code sees the same


def test_only_the_last_are_kept(folder: CheckpointFolder) -> None:
    folder.save("300", 300, 0, parts(300), keep_last=2)
    assert folder.names() == ["200", "300"]
    assert not list(folder.path.rglob("100.*")) and not list(folder.path.rglob("0.*"))
    folder.save("100", 100, 0, parts(100), keep_last=1)
    assert folder.names() == ["100"]


def test_latest_alone_is_enough(folder: CheckpointFolder) -> None:
    """Somebody removes the numbered files to save space."""
    for file in folder.path.rglob("*00.pth"):
        file.unlink()
    for file in folder.path.rglob("0.pth"):
        file.unlink()
    assert folder.names() == ["latest"] and folder.epoch_of() == 200
    folder.save("201", 201, 0, parts(201))
    assert folder.resolve() == "201"


def test_published_folder_counts_by_its_files(tmp_path: Path) -> None:
    for name in ("0", "20", "100", "notes", "latest"):
        (tmp_path / "ModelParameters").mkdir(exist_ok=True)
        torch.save({"epoch": 100, "model_state_dict": {}}, tmp_path / "ModelParameters" / f"{name}.pth")
    folder = CheckpointFolder(tmp_path)
    assert folder.names() == ["0", "20", "100", "latest"] and folder.resolve() == "latest"
    (tmp_path / "ModelParameters" / "latest.pth").unlink()
    assert folder.resolve() == "100"


def test_damaged_latest_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "ModelParameters").mkdir()
    torch.save({"epoch": 100, "model_state_dict": {}}, tmp_path / "ModelParameters" / "100.pth")
    (tmp_path / "ModelParameters" / "latest.pth").write_bytes(b"cut")
    folder = CheckpointFolder(tmp_path)
    folder.save("101", 101, 0, parts(101))
    assert folder.names() == ["100", "101"]


# ---- what is missing or damaged


def test_missing_checkpoints_list_what_there_is(folder: CheckpointFolder, tmp_path: Path) -> None:
    with pytest.raises(
        MissingInputError, match=r"checkpoint 50 in .* does not exist; .*there: 0, 100, 200; choose"
    ):
        folder.resolve(50)
    with pytest.raises(MissingInputError, match=r"there is no complete checkpoint; train first"):
        CheckpointFolder(tmp_path / "none").resolve()
    with pytest.raises(
        MissingInputError, match=r"checkpoint 200 in .* holds no CamParameters, only ModelParameters, "
    ):
        folder.load("CamParameters")


def test_set_without_manifest_is_incomplete(folder: CheckpointFolder) -> None:
    (folder.path / "manifests" / "200.json").unlink()
    (folder.path / "manifests" / "latest.json").unlink()
    assert folder.resolve() == "100"
    with pytest.raises(MissingInputError, match=r"checkpoint 200 .* is incomplete: its save was cut short"):
        folder.load("ModelParameters", 200)


def test_set_with_a_file_removed_is_incomplete(folder: CheckpointFolder) -> None:
    (folder.path / "OptimizerParameters" / "100.pth").unlink()
    assert folder.names() == ["0", "200"]
    with pytest.raises(MissingInputError, match=r"checkpoint 100 .* is incomplete: .*files were removed"):
        folder.load("ModelParameters", 100)


def test_unreadable_manifest_does_not_count(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.path / "manifests" / "200.json").write_text("{")
    assert folder.resolve() == "latest" and folder.epoch_of() == 200  # its copy
    assert "200.json cannot be read" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "longer"])
def test_damage_is_reported_with_the_last_good_checkpoint(folder: CheckpointFolder, damage: str) -> None:
    file = folder.path / "ModelParameters" / "200.pth"
    content = file.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    file.write_bytes(
        {"cut": content[:-20], "empty": b"", "one bit": flipped, "longer": content + b"x"}[damage]
    )
    with pytest.raises(InputError) as error:
        folder.load("ModelParameters")
    message = str(error.value)
    assert str(file) in message and "damaged" in message
    assert message.endswith("the last good checkpoint is 100: use --checkpoint 100")
    (folder.path / "TrainerState" / "100.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"the last good checkpoint is 0: use --checkpoint 0"):
        folder.load("ModelParameters")


def test_damage_in_a_published_folder(tmp_path: Path) -> None:
    (tmp_path / "ModelParameters").mkdir()
    for name in ("0", "100"):
        torch.save(
            {"epoch": int(name), "model_state_dict": {"w": torch.ones(9)}},
            tmp_path / "ModelParameters" / f"{name}.pth",
        )
    file = tmp_path / "ModelParameters" / "100.pth"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(
        InputError,
        match=r"100\.pth: refused as damaged, or no checkpoint file \(200 bytes\); .*checkpoint is 0:",
    ):
        CheckpointFolder(tmp_path).load("ModelParameters")
    (tmp_path / "ModelParameters" / "0.pth").unlink()
    with pytest.raises(InputError, match=r"there is no other good checkpoint in this run"):
        CheckpointFolder(tmp_path).load("ModelParameters")


def test_published_save_cut_between_its_files(tmp_path: Path) -> None:
    for part, epoch in (("ModelParameters", 200), ("OptimizerParameters", 100)):
        (tmp_path / part).mkdir()
        torch.save({"epoch": epoch, STATE_KEYS[part]: {}}, tmp_path / part / "latest.pth")
    with pytest.raises(InputError, match=r"mixes epochs \(ModelParameters 200, OptimizerParameters 100\)"):
        CheckpointFolder(tmp_path).load_all()


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "ModelParameters").mkdir()
    torch.save({"weights": {}}, tmp_path / "ModelParameters" / "latest.pth")
    with pytest.raises(
        InputError, match=r"is no ModelParameters file; expected .* epoch and model_state_dict"
    ):
        CheckpointFolder(tmp_path).load("ModelParameters")


# ---- code is refused


class Attack:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_would_run_code_are_refused(tmp_path: Path, zipped: bool) -> None:
    (tmp_path / "ModelParameters").mkdir()
    file = tmp_path / "ModelParameters" / "latest.pth"
    content = {"epoch": 1, "model_state_dict": Attack(tmp_path / "attacked")}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        InputError, match=r"refused, because reading it would run code \(posix\.mkdir\); expected tensors"
    ):
        CheckpointFolder(tmp_path).load("ModelParameters")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("value", [np.ones(3), np.float32(1), torch.nn.Linear(1, 1)])
def test_files_with_other_objects_are_refused(tmp_path: Path, value: Any) -> None:
    torch.save({"epoch": value}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="refused"):
        read_content(tmp_path / "x.pth")


def test_plain_pickle_and_missing_file(tmp_path: Path) -> None:
    for content in ({"epoch": 1}, {"epoch": Attack(tmp_path / "attacked")}):
        for protocol in (0, 2, 4):
            (tmp_path / "x.pth").write_bytes(pickle.dumps(content, protocol=protocol))
            with pytest.raises(InputError, match=r"x\.pth: refused"):
                read_content(tmp_path / "x.pth")
    assert not (tmp_path / "attacked").exists()
    with pytest.raises(MissingInputError, match=r"y\.pth: does not exist"):
        read_content(tmp_path / "y.pth")


# ---- the file format


def dumped(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    write_content(buffer, content)
    return buffer.getvalue()


def test_everything_that_a_checkpoint_may_hold_comes_back(tmp_path: Path) -> None:
    dtypes = [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
    ]
    dtypes += [torch.int8, torch.uint8, torch.bool]
    content: dict[str, Any] = {
        "tensors": [torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes],
        "view": torch.arange(12.0).reshape(3, 4).t()[1:],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": [None, True, 3, 10**30, -1.5, float("inf"), "ä\n", (1, ("a",)), {}],
        "counter": Counter({3: 1}),
        "ordered": OrderedDict(b=1, a=2),
        0: {"int keys": 1},
    }
    (tmp_path / "x.pth").write_bytes(dumped(content))
    back = read_content(tmp_path / "x.pth")
    assert list(back) == list(content)
    for left, right in zip(back["tensors"], content["tensors"], strict=True):
        assert left.dtype == right.dtype and torch.equal(left, right)
    for key in ("view", "scalar", "empty", "parameter"):
        assert back[key].shape == content[key].shape and torch.equal(back[key], content[key])
    for key in ("plain", "counter", "ordered", 0):
        assert back[key] == content[key] and type(back[key]) is type(content[key])
    assert not back["parameter"].requires_grad


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    """A row of a large table takes the room of a row, and loading it keeps no more alive."""
    table = torch.arange(100_000.0).reshape(1000, 100)
    (tmp_path / "x.pth").write_bytes(dumped({"row": table[5], "same": table[5]}))
    assert (tmp_path / "x.pth").stat().st_size < 5000
    back = read_content(tmp_path / "x.pth")
    assert torch.equal(back["row"], table[5]) and torch.equal(back["same"], table[5])
    assert back["row"].untyped_storage().nbytes() == 400


@pytest.mark.parametrize(
    "value", [np.ones(3), object(), {1, 2}, torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.cfloat)]
)
def test_nothing_is_written_that_could_not_be_read(value: Any, folder: CheckpointFolder) -> None:
    content = parts(300)
    content["TrainerState"]["seed"] = value
    with pytest.raises(TypeError, match="a checkpoint (holds|cannot hold)"):
        folder.save("300", 300, 0, content)
    assert folder.resolve() == "200" and not list(folder.path.rglob("*.tmp"))
    folder.save("300", 300, 0, parts(300))
    assert folder.resolve() == "300"


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -5}, {"epoch": 1.5}, {"step": True}, {"serial": 10**400}, {"staged": None}, {"files": {}},
        {"files": {"../../ModelParameters": {"size": 1, "sha256": "0"}}}, {"files": {"ModelParameters": 3}},
        {"files": {"ModelParameters": {"size": "1", "sha256": "0"}}},
    ],
)  # fmt: skip
def test_manifest_with_other_content_does_not_count(
    folder: CheckpointFolder, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = folder.path / "manifests" / "200.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (folder.path / "manifests" / "latest.json").unlink()
    assert folder.names() == ["0", "100"] and folder.resolve() == "100"
    assert "200.json cannot be read" in caplog.text


@pytest.mark.parametrize("text", ["null", "7", '{"100": 1}', "[null, [1], {}]", "[" * 100_000, "\x00"])
def test_an_odd_list_of_unfinished_sets_removes_nothing(folder: CheckpointFolder, text: str) -> None:
    (folder.path / "manifests" / "unfinished.json").write_text(text)
    folder.save("300", 300, 0, parts(300))
    assert folder.names() == ["0", "100", "200", "300"]


def test_a_manifest_has_epoch_step_and_files(folder: CheckpointFolder) -> None:
    manifest = json.loads((folder.path / "manifests" / "100.json").read_text())
    file = folder.path / "ModelParameters" / "100.pth"
    assert (manifest["epoch"], manifest["step"], manifest["name"]) == (100, 0, "100")
    assert manifest["files"]["ModelParameters"]["size"] == file.stat().st_size
