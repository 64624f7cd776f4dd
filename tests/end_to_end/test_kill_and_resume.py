"""Real processes ended by kill -9 at random instants and by Ctrl-C.

Run as a script this file is the process that forks and kills trainings; pytest's own process, which may hold
threads (of a GPU's driver, say), is not one to fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "code")]

import torch  # noqa: E402
from tests.training import tiny  # noqa: E402

from idr.checkpoints.folder import CheckpointFolder  # noqa: E402
from idr.cli.train import main  # noqa: E402

NUM_VIEWS = 3
NUM_EPOCHS = 16
LONGEST_LIFE = 10.0  # durations of an epoch before the kill; the plots of epoch 0 take several
SETTINGS: dict[str, dict[str, Any]] = {
    "fixed cameras": {"flags": [], "conf": "", "kills": 10},
    "schedule": {"flags": [], "conf": "", "added": tiny.SCHEDULE, "kills": 6},
    "trained cameras": {
        "flags": ["--train_cameras", "--batch_size", "2"],  # of three images: the last batch is short
        "conf": "plot_freq = 4, keep_checkpoints = 3",
        "kills": 10,
    },
}


def environment() -> dict[str, str]:
    """Returns the environment of the comparing process: one thread, no GPU."""
    paths = os.pathsep.join((str(REPOSITORY / "code"), str(REPOSITORY)))
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}


def train_in_child(arguments: list[str], life: float | None) -> int:
    """Trains in a forked process and kills it a number of seconds after training began.

    Args:
        arguments: The command line.
        life: Seconds, or None to let it end by itself.

    Returns:
        The exit status; minus the signal's number if one ended it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)  # its first lines announce the training
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = 99
        try:
            status = main(arguments)
        finally:
            os._exit(status)
    os.close(writer)
    while life is not None and b"parameters" not in (text := os.read(reader, 4096)) and text:
        pass
    if life is not None:
        time.sleep(life)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os.close(reader)
    return os.waitstatus_to_exitcode(status)


def latest_checkpoint(exps: Path) -> tuple[Path, str] | None:
    """Returns the run and the name of the checkpoint from which --is_continue continues."""
    for run in sorted((exps / "tiny").glob("*"), reverse=True):
        names = CheckpointFolder(run / "checkpoints").names()
        if names:
            return run, names[-1]
    return None


def kill_and_resume(root: Path, setting: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Kills trainings at random instants, checks the checkpoint each time and lets the last one finish."""
    tiny.write_scene(root / "data", NUM_VIEWS)
    added = setting.get("added", "")
    (root / "tiny.conf").write_text(tiny.conf_text(setting["conf"]) + added)
    (root / "whole.conf").write_text(tiny.conf_text() + added)  # keeps all checkpoints, no plots
    flags = [*setting["flags"], *([] if setting["conf"] == "" else ["--set", "plot.resolution=4"])]
    whole_command = tiny.command(root, *flags, nepoch=NUM_EPOCHS, exps="whole", conf="whole.conf")
    started = time.monotonic()
    assert main(whole_command) == 0
    longest = LONGEST_LIFE * (time.monotonic() - started) / NUM_EPOCHS
    whole = tiny.only_run(root / "whole")

    kills, differing, epochs, attempt = 0, [], [], 0
    status = 0
    while kills < setting["kills"] or status != 0:
        life = dice.uniform(0, longest) if kills < setting["kills"] else None
        attempt += status == 0 and kills > 0  # finished before it could be killed: repeat from the beginning
        exps = f"exps{attempt}"
        status = train_in_child(
            tiny.command(root, *flags, "--is_continue", nepoch=NUM_EPOCHS, exps=exps), life
        )
        kills += status == -signal.SIGKILL
        assert status in (0, -signal.SIGKILL), status
        found = latest_checkpoint(root / exps)
        if found is not None:
            run, name = found
            epochs.append(int(name))
            if not tiny.same(tiny.parts_of(run, name), tiny.parts_of(whole, name)):
                differing.append(name)
    rows = [[row["epoch"] for row in tiny.metrics_rows(folder)] for folder in (run, whole)]
    return {"kills": kills, "differing": differing, "epochs": epochs, "same_rows": rows[0] == rows[1]}


def outcome_of(python: Path, setting: str, place: Path) -> Any:
    """Returns the outcome of `kill_and_resume` in a separate process."""
    process = subprocess.run(
        [str(python), __file__, str(place), setting],
        env=environment(), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_a_run_killed_at_random_instants_ends_with_the_same_bits(
    setting: str, tmp_path: Path, warm_python: Path
) -> None:
    outcome = outcome_of(warm_python, setting, tmp_path)
    assert outcome["kills"] == SETTINGS[setting]["kills"]
    assert outcome["differing"] == [] and outcome["same_rows"]
    assert outcome["epochs"][-1] == NUM_EPOCHS
    assert len(set(outcome["epochs"])) > 2  # kills in different epochs


def test_ctrl_c_in_a_terminal(tmp_path: Path, warm_python: Path) -> None:
    """The published script as a process: it saves, prints how to continue, and continues to the same bits."""
    tiny.write_scene(tmp_path / "data", NUM_VIEWS)
    (tmp_path / "tiny.conf").write_text(tiny.conf_text("checkpoint_freq = 1000000"))
    script = [str(warm_python), str(REPOSITORY / "code" / "training" / "exp_runner.py")]
    training = subprocess.Popen(
        [*script, *tiny.command(tmp_path, nepoch=1_000_000)], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "exps").glob("*/*/metrics.csv")):  # after an epoch
            assert training.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        training.send_signal(signal.SIGINT)
        output, error = training.communicate(timeout=60)
    finally:
        training.kill()
    run = tiny.only_run(tmp_path / "exps")
    assert training.returncode == 130, error
    assert "Traceback" not in error and "once more to stop without saving" in error
    assert f"to go on: the same command with --is_continue --timestamp {run.name}" in output

    epoch, _ = CheckpointFolder(run / "checkpoints").position_of()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = ["--is_continue", "--timestamp", run.name]
        assert main(tiny.command(tmp_path, *again, nepoch=epoch + 1)) == 0
        assert main(tiny.command(tmp_path, nepoch=epoch + 1, exps="whole")) == 0
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert tiny.checkpoint_digests(run) == tiny.checkpoint_digests(tiny.only_run(tmp_path / "whole"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, name = Path(sys.argv[1]), sys.argv[2]
    tiny.write_scene(place / "data", NUM_VIEWS)
    tiny.write_conf(place / "tiny.conf")
    assert main(tiny.command(place, nepoch=1)) == 0  # imports everything before the fork
    print(json.dumps(kill_and_resume(place / name, SETTINGS[name], random.Random(name))), flush=True)  # noqa: T201
