"""Many scenes: failed, continued and finished ones, Ctrl-C, and the local cluster of submitit."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.training import tiny

from idr.checkpoints.folder import CheckpointFolder
from idr.cli import run_scenes, train
from idr.errors import OutputError
from idr.many_scenes import launchers, scenes

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scene as scans 1 to 3."""
    shutil.copy(scene_root / "tiny.conf", tmp_path)
    for scan in (1, 2, 3):
        shutil.copytree(scene_root / "data" / "tiny" / "scan0", tmp_path / "data" / "tiny" / f"scan{scan}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    return tmp_path


def runs_of(root: Path, scan: int) -> list[Path]:
    return sorted((root / "exps" / f"tiny_{scan}").iterdir())


def table(root: Path) -> dict[int, dict[str, str]]:
    with (root / "exps" / "tiny_scenes" / "summary.csv").open(newline="") as stream:
        return {int(row["scan"]): row for row in csv.DictReader(stream)}


@pytest.fixture
def warm(warm_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains the scenes in processes that need not import the libraries."""
    monkeypatch.setattr(sys, "executable", str(warm_python))


def test_a_list_of_scenes(root: Path, warm: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(tiny.command(root, "--scan_id", "1", nepoch=2)) == 0
    assert train.main(tiny.command(root, "--scan_id", "2", nepoch=1)) == 0
    finished = tiny.tree_digest(root / "exps" / "tiny_1")
    mask = root / "data" / "tiny" / "scan3" / "mask" / "002.png"
    mask.rename(root / "mask")

    flags = ["--scans", "3", "2", "1", "--jobs", "2"]
    capsys.readouterr()
    assert run_scenes.main([*flags, *tiny.command(root, nepoch=2)]) == 1
    captured = capsys.readouterr()
    rows = table(root)
    assert list(rows) == [3, 2, 1]
    assert [rows[scan]["status"] for scan in (3, 2, 1)] == [
        "failed (exit status 2)", "done", "done before",
    ]  # fmt: skip
    assert [rows[scan]["epochs"] for scan in (3, 2, 1)] == ["0", "2", "2"]
    (run,) = runs_of(root, 2)  # continued in its folder
    assert rows[2]["run"] == str(run) and rows[3]["run"] == ""
    assert [row["epoch"] for row in tiny.metrics_rows(run)] == ["0", "1"]
    assert float(rows[2]["psnr"]) == pytest.approx(float(tiny.metrics_rows(run)[-1]["psnr"]), abs=0.005)
    assert tiny.tree_digest(root / "exps" / "tiny_1") == finished
    assert "scan 3: failed (exit status 2), 0 of 2 epochs: error: " in captured.err
    markdown = (root / "exps" / "tiny_scenes" / "summary.md").read_text()
    minutes, psnr = rows[2]["minutes"], rows[2]["psnr"]
    assert markdown in captured.out and f"| 2 | done | 2 of 2 | {minutes} | {psnr} | {run} |" in markdown
    assert float(minutes) < 1

    (root / "mask").rename(mask)
    assert run_scenes.main([*flags, *tiny.command(root, nepoch=2)]) == 0
    assert [row["status"] for row in table(root).values()] == ["done", "done before", "done before"]
    assert len(runs_of(root, 3)) == 1
    log = (root / "exps" / "tiny_scenes" / "scan3.log").read_text()
    assert "error: " in log and "done: 2 epochs" in log  # appended, not overwritten


def test_ctrl_c_is_forwarded_once(root: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "code" / "training" / "run_scenes.py"), "--scans", "1", "2"]
    process = subprocess.Popen(
        [*script, *tiny.command(root, "--set", "train.checkpoint_freq=1000000", nepoch=1_000_000)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_epoch(root, process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    rows = table(root)
    assert [row["status"] for row in rows.values()] == ["stopped", "waiting"]
    (run,) = runs_of(root, 1)
    epoch, step = CheckpointFolder(run / "checkpoints").position_of()
    assert epoch + step > 0 and rows[1]["epochs"] == str(epoch)
    assert "to continue unfinished scenes: the same command" in output and "Traceback" not in errors
    assert "the state is saved" in (root / "exps" / "tiny_scenes" / "scan1.log").read_text()


def wait_for_epoch(root: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list((root / "exps").glob("tiny_1/*/metrics.csv")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_on_the_local_cluster_of_submitit(root: Path) -> None:
    pytest.importorskip("submitit")
    flags = ["--scans", "1", "--cluster", "local", "--cluster_set", "timeout_min=2"]
    assert run_scenes.main([*flags, *tiny.command(root, nepoch=1)]) == 0
    assert [row["status"] for row in table(root).values()] == ["done"]
    assert list((root / "exps" / "tiny_scenes" / "submitit").glob("*_result.pkl"))


SAVES_ON_CTRL_C = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, lambda number, frame: sys.exit(print("saved") or 130))
pathlib.Path(sys.argv[1]).touch()
signal.pause()
"""


def test_a_job_at_its_time_limit_saves_and_requeues(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    task = launchers.SceneTask(
        [sys.executable, "-S", "-c", SAVES_ON_CTRL_C, str(tmp_path / "up")], tmp_path / "log"
    )
    with ThreadPoolExecutor(1) as thread:  # submitit calls `checkpoint` from a signal handler meanwhile
        status = thread.submit(task)
        deadline = time.monotonic() + 30
        while not (tmp_path / "up").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        again = task.checkpoint()
        assert status.result(timeout=30) == 130
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function.command == task.command and again.function.log == task.log
    assert task.log.read_text() == "saved\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scans", "1", "2", "1"], "--scans names 1 more than once"),
        (["--scans", "-1"], "--scans -1: expected the numbers of scenes"),
        (["--scans", "1", "--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["--scans", "1", "--gpus", "0", "--gpu", "1"], "leave out --gpu"),
        (["--scans", "1", "--gpus", "0", "--cluster", "local"], "--cluster_set gpus_per_node=1"),
        (["--scans", "1", "--cluster_set", "a=1"], "add --cluster slurm or --cluster local"),
        (["--scans", "1", "--cluster", "local", "--cluster_set", "a"], "--cluster_set a: expected KEY=VALUE"),
        (["--scans", "1", "--cluster", "local", "--cluster_set", "gpus=1"], "submitit refuses"),
        (["--scans", "1", "--set", "train.expname=[1]"], "train.expname"),
    ],
)
def test_mistakes_leave_no_trace(
    root: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    if "gpus=1" in flags:
        pytest.importorskip("submitit")
    assert run_scenes.main([*tiny.command(root), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not list((root / "exps").glob("*/summary.*"))


def test_without_submitit(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert run_scenes.main(["--scans", "1", "--cluster", "local", *tiny.command(root)]) == 2
    assert "--cluster needs submitit: pip install 'idr-surface[cluster]'" in capsys.readouterr().err


def test_training_options_are_checked_first(root: Path) -> None:
    for wrong in (["--nepochs", "3"], ["--scan_id", "1"], ["--timestamp", "2020"]):
        with pytest.raises(SystemExit, match="2"):
            run_scenes.main(["--scans", "1", *tiny.command(root), *wrong])
    assert not (root / "exps").exists()


class FakeJob:
    """Ends when interrupted."""

    def __init__(self, status: int | str | None) -> None:
        self.status, self.interrupts = status, 0

    def poll(self) -> int | str | None:
        return self.status

    def interrupt(self) -> None:
        self.interrupts += 1


class FakeLauncher:
    """Starts no process; checks the number of simultaneous jobs."""

    def __init__(self, statuses: Sequence[int | str | None]) -> None:
        self.statuses, self.slots, self.jobs = list(statuses), list[int](), list[FakeJob]()

    def start(self, command: Sequence[str], log: Path, slot: int) -> FakeJob:
        self.slots.append(slot)
        if not self.statuses:
            raise OutputError("cannot write the log: no space")
        self.jobs.append(FakeJob(self.statuses.pop(0)))
        return self.jobs[-1]


def queue_of(folder: Path, statuses: Sequence[int | str | None], count: int) -> scenes.SceneQueue:
    listed = [scenes.Scene(n, f"tiny_{n}", ("train", str(n)), folder / f"{n}.log") for n in range(count)]
    table = scenes.SummaryTable(folder, 5)
    return scenes.SceneQueue(listed, folder / "exps", FakeLauncher(statuses), 2, table)


def test_slots_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "POLL_SECONDS", 0.0)
    queue = queue_of(tmp_path, [0, -9, 130, "job 7: TIMEOUT", 1], 5)
    assert queue.run() is False
    assert queue.launcher.slots == [0, 1, 0, 1, 0]  # type: ignore[attr-defined]
    assert [row.status for row in queue.table.rows.values()] == [
        "done", "failed (signal 9)", "stopped", "failed (job 7: TIMEOUT)", "failed (exit status 1)",
    ]  # fmt: skip


def test_a_full_disk_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "POLL_SECONDS", 0.0)
    queue = queue_of(tmp_path, [None], 2)
    with pytest.raises(OutputError, match="no space"):
        queue.run()
    assert [job.interrupts for job in queue.launcher.jobs] == [1]  # type: ignore[attr-defined]


def test_processes_are_distributed_over_gpus_and_share_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launchers, "num_cores", lambda: 12)
    tell = [sys.executable, "-S", "-c", "import os, sys; print(*sys.argv[1:], os.environ['OMP_NUM_THREADS'])"]
    launcher = launchers.ProcessLauncher(jobs=5, gpus=[3, 5])
    for slot, words in enumerate(("--gpu 3 2", "--gpu 5 2", "--gpu 3 2")):
        job = launcher.start(tell, tmp_path / f"{slot}", slot)
        assert job.process.wait(timeout=30) == 0 and job.poll() == 0
        assert (tmp_path / f"{slot}").read_text().strip() == words
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launchers.ProcessLauncher(jobs=5).variables == {}
