"""Real processes: two trainings in one folder, parents that are killed, signals, folders that go away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.training import tiny

from idr.checkpoints.folder import CheckpointFolder
from idr.runs.lock import LOCK

REPOSITORY = Path(__file__).resolve().parents[2]
ENDLESS = ("--set", "train.checkpoint_freq=1000000"), 1_000_000


@pytest.fixture
def root(scene_root: Path, tmp_path: Path) -> Path:
    shutil.copy(scene_root / "tiny.conf", tmp_path)
    (tmp_path / "data").symlink_to(scene_root / "data")
    return tmp_path


@contextmanager
def started(python: Path, *command: str, flag: str = "-m") -> Iterator[subprocess.Popen[str]]:
    """Starts a module, or the code of ``-c``, with arguments; kills it on exit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "code")}
    process = subprocess.Popen(
        [str(python), flag, *command], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()  # the warm interpreter passes it on
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def endless(root: Path, *flags: str) -> list[str]:
    return tiny.command(root, *ENDLESS[0], *flags, nepoch=ENDLESS[1])


def training_run(root: Path) -> Path:
    """Waits for the first epoch of a training and returns its run."""
    wait_until(lambda: list((root / "exps").glob("tiny*/*/metrics.csv")))
    return tiny.only_run(root / "exps")


def holder(run: Path) -> int:
    """The process that the lock names."""
    return int((run / LOCK).read_text().split()[0])


def test_one_training_at_a_time_in_a_folder(root: Path, warm_python: Path) -> None:
    with started(warm_python, "idr.cli.train", *endless(root)) as first:
        run, pid = training_run(root), 0
        pid = holder(run)
        before = (run / "runconf.conf").read_text()
        again = tiny.command(root, "--is_continue", "--timestamp", run.name, "--set", "loss.alpha=40")
        with started(warm_python, "idr.cli.train", *again) as second:
            _, error = second.communicate(timeout=60)
        assert second.returncode == 2 and error.count("\n") == 1
        assert f"{run} is being trained by process {pid} on " in error and "--new_run" in error
        assert (run / "runconf.conf").read_text() == before and first.poll() is None
        assert not list(run.glob("runconf_until_*"))
        with started(warm_python, "idr.cli.train", *again, "--new_run") as third:  # the remedy
            assert third.wait(60) == 0
        os.kill(pid, signal.SIGKILL)
        first.wait(60)
    with started(warm_python, "idr.cli.train", *again) as after:
        assert after.wait(60) == 0
    assert not (run / LOCK).exists()
    assert CheckpointFolder(run / "checkpoints").epoch_of() == 2


PARENT = """
import sys, time
from pathlib import Path
from idr.many_scenes.launchers import start_process
start_process(sys.argv[2:], Path(sys.argv[1]), {})
time.sleep(600)
"""


def test_children_of_a_killed_parent_save_and_end(root: Path, warm_python: Path) -> None:
    command = [str(warm_python), "-m", "idr.cli.train", *endless(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "code")}
    log = root / "log"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(log), *command], env=environment) as parent:
        run = training_run(root)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not (run / LOCK).exists())
    epoch, step = CheckpointFolder(run / "checkpoints").position_of()
    assert epoch + step > 0 and "the state is saved" in log.read_text()


@pytest.mark.parametrize("ignored", [False, True])
def test_hangup_saves_unless_it_is_ignored(root: Path, warm_python: Path, ignored: bool) -> None:
    """A lost terminal; nohup ignores its signal."""
    action = "SIG_IGN" if ignored else "SIG_DFL"  # whatever the tests themselves inherited
    code = f"import signal, sys; signal.signal(signal.SIGHUP, signal.{action}); "
    code += "from idr.cli.train import main; sys.exit(main(sys.argv[1:]))"
    with started(warm_python, code, *endless(root), flag="-c") as training:
        run = training_run(root)
        pid = holder(run)
        os.kill(pid, signal.SIGHUP)
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                training.wait(1)
            os.kill(pid, signal.SIGTERM)
        output, error = training.communicate(timeout=60)
    assert training.returncode == 130 and "Traceback" not in error
    assert "the state is saved" in output and sum(CheckpointFolder(run / "checkpoints").position_of()) > 0


@pytest.mark.parametrize("renamed", [False, True])
def test_a_run_folder_that_goes_away(root: Path, warm_python: Path, renamed: bool) -> None:
    with started(warm_python, "idr.cli.train", *tiny.command(root, nepoch=1_000_000)) as training:
        run = training_run(root)
        if renamed:
            run.rename(root / "elsewhere")
        else:
            shutil.rmtree(run, ignore_errors=True)
            wait_until(lambda: training.poll() is not None or shutil.rmtree(run, ignore_errors=True))
        _, error = training.communicate(timeout=60)
    assert training.returncode == 1 and "Traceback" not in error
    assert f"stopped: the run's folder {run} was renamed or deleted" in error.splitlines()[-1]
    assert not (run / "runconf.conf").exists()  # a save under way may leave a checkpoint
    if renamed:
        again = tiny.command(root, "--is_continue", exps="moved")
        (root / "moved" / "tiny").mkdir(parents=True)
        (root / "elsewhere").rename(root / "moved" / "tiny" / run.name)
        with started(warm_python, "idr.cli.train", *again) as after:  # the remedy
            assert after.wait(60) == 0
        assert tiny.only_run(root / "moved").name == run.name


def test_terminated_scene_leaves_nothing(tmp_path: Path, warm_python: Path) -> None:
    out = tmp_path / "scan1"
    flags = ["--out", str(out), "--img_res", "64", "80", "--views", "500"]
    with started(warm_python, "idr.cli.demo.make_scene", *flags) as making:
        wait_until(lambda: list(tmp_path.glob(".scan1.*.tmp/cameras_linear_init.npz")))
        making.terminate()
        _, error = making.communicate(timeout=60)
    assert making.returncode == 130 and error.splitlines()[-1] == "interrupted"
    assert not list(tmp_path.iterdir())
