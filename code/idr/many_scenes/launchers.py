"""Launchers of `SceneQueue`: processes on this machine, or jobs of submitit on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import idr
from idr.errors import InputError
from idr.files import make_folder, output_errors

ENDS_WITH_STDIN = "IDR_ENDS_WITH_STDIN"
"""Variable of a process that has to end when its standard input closes, as it does when its parent ends."""

TIMEOUT_MINUTES = 24 * 60
"""Default time limit of a cluster job; an unfinished training is queued again and continues."""


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_process(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a command in its own session, which Ctrl-C of the terminal does not reach.

    Its output is appended to the log; the variables are added to its environment. The command saves its state
    and stops when this process ends, however that ends.

    Raises:
        OutputError: The log cannot be written.
    """
    make_folder(log.parent)
    with output_errors(log), log.open("ab") as stream:
        return subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": _python_path(), ENDS_WITH_STDIN: "1", **variables},
            start_new_session=True,
        )  # fmt: skip


def end_with_parent() -> None:
    """Ends this process with SIGTERM, which saves a training, when the process of `start_process` ends.

    Does nothing in a process that was started otherwise.
    """
    if os.environ.pop(ENDS_WITH_STDIN, None) is None:
        return

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _python_path() -> str:
    """Returns the PYTHONPATH with which a child process finds this package, installed or not."""
    code = str(Path(str(idr.__file__)).parents[1])
    before = os.environ.get("PYTHONPATH", "")
    return before if code in before.split(os.pathsep) else os.pathsep.join(filter(None, (code, before)))


class ProcessJob:
    """A process on this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        return self.process.poll()

    def interrupt(self) -> None:
        """Sends SIGINT: the command saves its state and stops, after a second one at once."""
        self.process.send_signal(signal.SIGINT)


class ProcessLauncher:
    """Starts up to `jobs` simultaneous processes that share the cores of this machine.

    They are distributed over the GPUs of these numbers; without any, the command chooses.
    """

    def __init__(self, jobs: int, gpus: Sequence[int] = ()) -> None:
        self.gpus = gpus
        self.variables = {}
        if "OMP_NUM_THREADS" not in os.environ:
            self.variables["OMP_NUM_THREADS"] = str(max(1, num_cores() // jobs))

    def start(self, command: Sequence[str], log: Path, slot: int) -> ProcessJob:
        """Starts a command; its output is appended to `log`, `slot` counts the simultaneous jobs from 0."""
        gpu = ["--gpu", str(self.gpus[slot % len(self.gpus)])] if self.gpus else []
        return ProcessJob(start_process([*command, *gpu], log, self.variables))


class SceneTask:
    """A job on a cluster node: runs the command, which continues the run that it finds.

    It saves and is queued again at the time limit.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = tuple(command), log
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs the command and returns its exit status."""
        self.process = start_process(self.command, self.log, {})
        try:
            return self.process.wait()
        except BaseException:  # canceled: the command saves its state
            self._stop()
            raise

    def _stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def checkpoint(self) -> Any:
        """Saves and requests another job; submitit calls it before a time limit or a preemption."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        return DelayedSubmission(SceneTask(self.command, self.log))


class ClusterJob:
    """A job of submitit."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | str | None:
        """Returns the exit status, None while the job waits or runs, or the state of a failed job."""
        if not self.job.done():
            return None
        error = self.job.exception()
        return self.job.result() if error is None else f"job {self.job.job_id}: {self.job.state}"

    def interrupt(self) -> None:
        """Cancels the job, which saves its state."""
        self.job.cancel()


class ClusterLauncher:
    """Starts jobs through submitit.

    Args:
        cluster: ``slurm``, or ``local`` for processes on this machine.
        folder: Folder of submitit's files; all nodes must see it.
        parameters: Parameters of submitit's executor, such as ``slurm_partition`` or ``gpus_per_node``.

    Raises:
        InputError: submitit is not installed, or refuses the cluster or a parameter.
    """

    def __init__(self, cluster: str, folder: Path, parameters: Mapping[str, int | str]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise InputError("--cluster needs submitit: pip install 'idr-surface[cluster]'") from error
        os.environ["PYTHONPATH"] = _python_path()  # jobs inherit the environment
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(**{"timeout_min": TIMEOUT_MINUTES, **parameters})
        except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
            listing = ", ".join(f"{key}={value}" for key, value in parameters.items()) or "none given"
            raise InputError(
                f"--cluster {cluster}: submitit refuses ({error}); parameters: {listing}; correct "
                "--cluster_set, or start from a machine of the cluster"
            ) from error

    def start(self, command: Sequence[str], log: Path, slot: int) -> ClusterJob:
        """Submits a command; its output is appended to `log`."""
        return ClusterJob(self.executor.submit(SceneTask(command, log)))
