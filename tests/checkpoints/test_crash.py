"""Ends the process at every call of one save that changes the disk; a complete checkpoint is always there."""

from __future__ import annotations

import builtins
import errno
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from idr.checkpoints.folder import STATE_KEYS, CheckpointFolder, checkpoint_name
from idr.checkpoints.manifests import complete_sets, current_file, record_file
from idr.errors import MissingInputError, OutputError

USED = ("ModelParameters", "OptimizerParameters")
KILLED, SURVIVED = 77, 0
HOOKED = ("open", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")
"""Every call of `os` by which a save can change the disk; writes go through `os.fdopen`."""

Step = Callable[[str], None]


def content(value: float, parts: tuple[str, ...] = USED) -> dict[str, dict[str, Any]]:
    """The parts of a checkpoint, marked by `value`."""
    return {
        part: {"epoch": int(value), STATE_KEYS[part] or "own": {"w": torch.full((4, 3), value)}}
        for part in parts
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


class _HookedFile:
    """A file whose writes are steps; a killed one leaves half of its bytes on the disk."""

    def __init__(self, file: Any, step: Step) -> None:
        self._file, self._step = file, step

    def write(self, data: Any) -> int:
        data = memoryview(data)
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._step("write")
        self._file.write(data[len(data) // 2 :])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _HookedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def hook(patch: pytest.MonkeyPatch, step: Step) -> None:
    """Calls `step(name)` before each of the calls that change the disk, and in the middle of each write."""

    def hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or (len(args) > 1 and args[1] & os.O_CREAT):  # opening to read changes nothing
                step(name)
            return real(*args, **kwargs)

        return call

    for name in HOOKED:
        patch.setattr(os, name, hooked(name, getattr(os, name)))
    real_fdopen = os.fdopen
    patch.setattr(os, "fdopen", lambda *args, **kwargs: _HookedFile(real_fdopen(*args, **kwargs), step))


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked process; returns its exit status."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(SURVIVED)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def end_at(number: int) -> Step:
    """A step that ends the process, without any cleaning up, when its count reaches `number`."""
    count = 0

    def step(_: str) -> None:
        nonlocal count
        if count == number:
            os._exit(KILLED)
        count += 1

    return step


def steps_of(work: Callable[[], object]) -> list[str]:
    """The names of the steps of a whole save."""
    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        hook(patch, names.append)
        work()
    return names


# ---- the four situations of a save: what was there, what is saved, what must be found before and after


class Situation:
    """A folder as it is before, the save under test, and what `latest` may give."""

    def __init__(
        self, prepare: Callable[[Path], None], save: Callable[[Path], None], old: Any, new: Any
    ) -> None:
        self.prepare, self.save, self.old, self.new = prepare, save, old, new
        self.others: dict[str, Any] = {}


def saved(
    name: str, value: float, keep_last: int | None = None, parts: tuple[str, ...] = USED
) -> Callable[[Path], None]:
    epoch, _, step = name.partition("_")
    return lambda path: CheckpointFolder(path).save(
        name, int(epoch), int(step or 0), content(value, parts), keep_last
    )


def published(path: Path) -> None:
    """A folder as the published code leaves it."""
    for name, value in (("0", 0.0), ("100", 100.0), ("latest", 100.0)):
        for part in USED:
            (path / part).mkdir(parents=True, exist_ok=True)
            torch.save(content(value)[part], path / part / f"{name}.pth")


def earlier(path: Path) -> None:
    saved("1", 1.0)(path)
    saved("2", 2.0)(path)


def situations() -> dict[str, Situation]:
    every = {
        "first": Situation(lambda path: None, saved("1", 1.0), None, content(1.0)),
        "later": Situation(earlier, saved("3", 3.0), content(2.0), content(3.0)),
        "inside_an_epoch_and_pruning": Situation(earlier, saved("2_7", 3.0, 2), content(2.0), content(3.0)),
        "again": Situation(earlier, saved("2", 5.0), content(2.0), content(5.0)),
        "again_with_fewer_parts": Situation(
            earlier, saved("2", 5.0, None, USED[:1]), content(2.0), content(5.0, USED[:1])
        ),
        "adopting": Situation(published, saved("101", 101.0), content(100.0), content(101.0)),
    }
    every["later"].others = {"1": content(1.0), "2": content(2.0)}
    every["again"].others = {"1": content(1.0)}
    every["adopting"].others = {"0": content(0.0), "100": content(100.0)}
    return every


SITUATIONS = situations()


def found(path: Path, name: str = "latest") -> Any:
    folder = CheckpointFolder(path)
    try:
        return folder.load_all(folder.resolve(name))
    except MissingInputError:
        return None


def check(path: Path, situation: Situation) -> None:
    """What is found is the old set or the new, whole; sets that the save does not touch are as they were."""
    latest = found(path)
    assert any(
        same(latest, expected) for expected in (situation.old, situation.new) if expected is not None
    ) or (latest is None and situation.old is None), latest
    for name, expected in situation.others.items():
        assert same(found(path, name), expected), name
    for manifest in complete_sets(path):  # `latest` too, though a numbered set stands for it
        for part, record in manifest.files.items():
            assert record_file(current_file(path, part, manifest)) == record, (manifest.name, part)


def tree(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file())


@pytest.fixture(autouse=True)
def fork_safe_and_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One torch thread, so that forking is safe; no waiting for the disk, which a killed process needs not.

    The calls of fsync are steps all the same, and are ended at.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SITUATIONS)
def test_process_ends_at_every_step(tmp_path: Path, name: str) -> None:
    situation = SITUATIONS[name]
    before, whole = tmp_path / "before", tmp_path / "whole"
    before.mkdir()
    situation.prepare(before)
    shutil.copytree(before, whole)
    steps = steps_of(lambda: situation.save(whole))
    assert {"open", "write", "fsync", "replace"} <= set(steps) and len(steps) >= 25
    check(whole, situation)
    assert same(found(whole), situation.new)

    outcomes = set()
    for number in range(len(steps)):
        path = tmp_path / "killed"
        shutil.copytree(before, path)

        def save_and_end(path: Path = path, number: int = number) -> None:
            with pytest.MonkeyPatch.context() as patch:
                hook(patch, end_at(number))
                situation.save(path)

        assert in_child(save_and_end) == KILLED, (number, steps[number])
        check(path, situation)
        outcomes.add(same(found(path), situation.new))
        situation.save(path)  # the next save heals everything and leaves nothing behind
        assert same(found(path), situation.new), (number, steps[number])
        assert tree(path) == tree(whole), (number, steps[number])
        shutil.rmtree(path)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("name", "error"),
    [("first", errno.ENOSPC), ("later", errno.EDQUOT), ("again", errno.ENOSPC), ("adopting", errno.ENOSPC)],
)
def test_disk_is_full_at_every_write(tmp_path: Path, name: str, error: int) -> None:
    situation = SITUATIONS[name]
    before, whole = tmp_path / "before", tmp_path / "whole"
    before.mkdir()
    situation.prepare(before)
    shutil.copytree(before, whole)
    growing = ("write", "open", "mkdir", "fsync")
    steps = steps_of(lambda: situation.save(whole))
    for number in [index for index, step in enumerate(steps) if step in growing]:
        path = tmp_path / "full"
        shutil.copytree(before, path)
        with pytest.MonkeyPatch.context() as patch:
            hook(patch, full_from(number, growing, error))
            with pytest.raises(OutputError, match=r"^checkpoint \d+ (was not saved|is saved, but)") as raised:
                situation.save(path)
        assert os.strerror(error).lower() in str(raised.value), raised.value
        check(path, situation)
        assert not [file for file in tree(path) if file.endswith(".tmp")], tree(path)
        situation.save(path)  # once there is space again
        assert same(found(path), situation.new) and tree(path) == tree(whole)
        shutil.rmtree(path)


def full_from(number: int, growing: tuple[str, ...], error: int) -> Step:
    """A step that fails from `number` on where the disk would have to hold more."""
    count = 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        if count > number and name in growing:
            raise OSError(error, os.strerror(error))

    return step


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_read_only_folder(tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may write anywhere, so the system's refusal is played."""
    earlier(tmp_path)
    files = {file: (tmp_path / file).read_bytes() for file in tree(tmp_path)}

    def refuse(_: str) -> NoReturn:
        raise OSError(error, os.strerror(error))

    hook(monkeypatch, refuse)
    with pytest.raises(OutputError) as raised:
        saved("3", 3.0)(tmp_path)
    monkeypatch.undo()
    message = str(raised.value)
    assert message.startswith("checkpoint 3 was not saved: cannot write ")
    assert os.strerror(error).lower() in message and "the last good checkpoint, 2, is kept" in message
    assert "write to another folder" in message
    assert {file: (tmp_path / file).read_bytes() for file in tree(tmp_path)} == files


def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    """No patches here: the kernel itself refuses to let a file grow."""
    earlier(tmp_path)

    def save_a_large_one() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        large = content(3.0)
        large["OptimizerParameters"]["optimizer_state_dict"] = {"m": torch.zeros(100_000)}
        try:
            CheckpointFolder(tmp_path).save("3", 3, 0, large)
        except OutputError as error:
            assert "file too large" in str(error) and "checkpoint, 2, is kept" in str(error), error
            os._exit(42)

    before = tree(tmp_path)
    assert in_child(save_a_large_one) == 42
    assert same(found(tmp_path), content(2.0))
    assert tree(tmp_path) == before


def test_killed_at_random_instants(tmp_path: Path) -> None:
    """SIGKILL while one checkpoint after another is saved, each replacing, pruning, refreshing `latest`."""
    draw = random.Random(0)
    reached = 0
    for _ in range(12):
        process = os.fork()
        if process == 0:
            folder = CheckpointFolder(tmp_path)
            number = folder.position_of()[0] if folder.names() else 0
            for value in range(number, number + 10_000):  # the first is a set that is there already
                folder.save(checkpoint_name(value), value, 0, content(float(value)), keep_last=2)
            os._exit(1)
        time.sleep(draw.uniform(0.02, 0.25))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        if not CheckpointFolder(tmp_path).names():
            continue
        epoch = CheckpointFolder(tmp_path).epoch_of()
        assert epoch >= reached
        assert same(found(tmp_path), content(float(epoch)))
        reached = epoch
    assert reached > 0


def test_copies_not_links(tmp_path: Path) -> None:
    """The published code rewrites latest.pth in place; a numbered checkpoint must not change with it."""
    earlier(tmp_path)
    for part in USED:
        with builtins.open(tmp_path / part / "latest.pth", "r+b") as file:
            file.write(b"rewritten in place")
    assert same(found(tmp_path, "2"), content(2.0))
