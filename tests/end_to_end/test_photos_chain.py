"""The chain of ``idr photos``, ended at each of its steps by kill -9 and by Ctrl-C, and continued.

Run as a script this file is the process that forks the chains, as in `test_kill_and_resume`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "code")]

import torch  # noqa: E402
from tests.training import tiny  # noqa: E402

from idr.checkpoints.folder import CheckpointFolder  # noqa: E402
from idr.cli.photos import command as photos  # noqa: E402

NUM_EPOCHS = 12
WITHIN = {"import": 0.1, "train": 0.1}
"""Seconds after which long steps are killed a second time, during their work."""


def command(root: Path, name: str) -> list[str]:
    """Returns the command line of a chain with its own results."""
    conf = root / "tiny.conf"
    schedule = "train.schedule { learning_rate { final = 0.1 } }"
    conf.write_text(tiny.conf_text("checkpoint_freq = 2") + tiny.GRID + schedule)
    options = f"--out {root / name} --conf {conf} --nepoch {NUM_EPOCHS} --resolution 24 --device cpu"
    return [str(root / "tiny" / "scan0"), *options.split()]


def run_in_child(arguments: list[str], step: str | None, number: int, delay: float) -> dict[str, Any]:
    """Runs the chain in a forked process that signals itself at a step or a later one.

    Args:
        arguments: The command line.
        step: The first one at which the signal may come, unless it is done already; None for no signal.
        number: The signal.
        delay: Seconds after the step's first line.

    Returns:
        ``status``, minus the signal's number if one ended it; ``lines``; ``delay``.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.close(reading)
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background processes ignore it
        if step is not None:
            end_at(step, number, delay)
        os._exit(photos.main(arguments))
    os.close(writing)
    with os.fdopen(reading) as stream:
        lines = [line.rstrip() for line in stream]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"status": status, "lines": lines, "delay": delay}


def end_at(step: str, number: int, delay: float) -> None:
    """Makes the process signal itself after the first line of a step."""
    lines = [f"== {name}" for name in photos.STEPS[photos.STEPS.index(step) :]]
    say = photos.say

    def say_and_end(text: str) -> None:
        say(text)
        if text.strip() in lines:
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), number)).start()
            else:
                os.kill(os.getpid(), number)

    photos.say = say_and_end


def end_everywhere(root: Path) -> dict[str, Any]:
    """Runs one chain without interruptions, and one for each signal, ended at every step."""
    # In this process, so that the children have all modules: trimesh swallows a Ctrl-C during its imports.
    found: dict[str, Any] = {"undisturbed": photos.main(command(root, "undisturbed"))}
    for number in (signal.SIGKILL, signal.SIGINT):
        arguments, ends = command(root, number.name), []
        for step in photos.STEPS:
            ends.append(run_in_child(arguments, step, number, 0.0))
            if step in WITHIN and number == signal.SIGKILL:
                ends.append(run_in_child(arguments, step, number, WITHIN[step]))
        found[number.name] = {"ends": ends, "last": run_in_child(arguments, None, 0, 0.0)}
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("photos")
    tiny.write_scene(root)
    paths = os.pathsep.join((str(REPOSITORY / "code"), str(REPOSITORY)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    call = [str(warm_python), __file__, str(root)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return root, json.loads((root / "found.json").read_text())


def begun_runs(folder: Path) -> list[Path]:
    """Returns the runs of a chain. A run killed during its first save stays behind without a checkpoint."""
    return [manifests.parents[1] for manifests in (folder / "exps").glob("*/*/checkpoints/manifests")]


def has_checkpoint(run: Path) -> bool:
    return bool(CheckpointFolder(run / "checkpoints").names())


def made(folder: Path) -> dict[str, Any]:
    """Returns what interruptions must not change: the scene, the weights of the last checkpoint, the mesh."""
    files = sorted((folder / "data").rglob("*.png"))
    files += [folder / "data" / "photos" / "scan0" / "cameras.npz", folder / "mesh.glb"]
    content = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    (run,) = filter(has_checkpoint, begun_runs(folder))
    content["weights"] = tiny.checkpoint_digests(run, str(NUM_EPOCHS))["ModelParameters"]
    return content


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_chain_interrupted_at_each_step_gives_the_same_result(ended: Any, name: str) -> None:
    root, found = ended
    assert found["undisturbed"] == 0
    last = found[name]["last"]
    assert last["status"] == 0 and (root / name / "report.html").is_file()
    assert made(root / name) == made(root / "undisturbed")
    again = [line for line in last["lines"] if line.startswith("== ")]
    assert len(again) == len(photos.STEPS) and "== import: done already" in again


@pytest.mark.parametrize(("name", "status"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_a_signal_at_the_start_of_a_step_ends_the_chain(ended: Any, name: str, status: int) -> None:
    _, found = ended
    at_once = [end for end in found[name]["ends"] if end["delay"] == 0]
    assert len(at_once) == len(photos.STEPS)
    for end, step in zip(at_once, photos.STEPS, strict=True):
        last = [line for line in end["lines"] if line.startswith("== ")][-1]
        assert end["status"] == status, step
        assert last.removeprefix("== ") in photos.STEPS[photos.STEPS.index(step) :], step


def test_no_temporary_files_remain(ended: Any) -> None:
    root, found = ended
    abandoned = [run for name in found for run in begun_runs(root / name) if not has_checkpoint(run)]
    remains = [path for path in root.rglob("*") if path.suffix == ".tmp" or "unfinished" in path.name]
    assert not [path for path in remains if not any(path.is_relative_to(run) for run in abandoned)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "found.json").write_text(json.dumps(end_everywhere(folder)))
