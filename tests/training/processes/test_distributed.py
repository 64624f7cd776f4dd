"""Two processes that share the rays, started by a real torchrun, against one process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.training import tiny
from tests.training.test_resume import EXPOSURES

from idr.checkpoints.folder import CheckpointFolder
from idr.cli.train import main

REPOSITORY = Path(__file__).parents[3]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
EXP_RUNNER = REPOSITORY / "code" / "training" / "exp_runner.py"
FAULTS = "tests.training.two_ranks"
ODD = ["--set", "train.num_pixels=21"]  # 11 and 10 rays; 10 or 21 points in the cube
CAMERAS = ["--train_cameras", "--batch_size", "2", *ODD]
BEYOND = [*CAMERAS]
for setting in ("poses=se3", "frozen=first", "focal=shared", "principal_point=per_image"):
    BEYOND += ["--set", f"train.cameras.{setting}"]
# Sums of rays are added in another order: 1e-7 a step of 1e-3, and Adam divides gradients by their size.
ROUNDING = 1e-5


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY / "code"), str(REPOSITORY)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@dataclass(frozen=True)
class Ran:
    """What came of a plan.

    Attributes:
        root: Where scene, confs and runs lie.
        status: Exit status of torchrun.
        statuses: By rank, exit statuses by name.
        output: What both processes printed.
        errors: What both processes said on the error stream.
    """

    root: Path
    status: int
    statuses: list[dict[str, int]]
    output: str
    errors: str

    def run(self, name: str) -> Path:
        return tiny.only_run(self.root / name)


def fault(key: str, name: str) -> list[str]:
    return ["--set", f"train.{key}={FAULTS}.{name}"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Ran:
    """Trains all that two processes train in one pair of them; one process continues and compares."""
    root = tmp_path_factory.mktemp("ranks")
    tiny.write_scene(root / "data")
    tiny.write_conf(root / "tiny.conf")
    (root / "schedule.conf").write_text(tiny.conf_text() + tiny.SCHEDULE + EXPOSURES)
    assert main(tiny.command(root, *ODD, nepoch=1, exps="grown")) == 0
    plan = [
        ("fixed", 2, ODD, []),
        ("cameras", 2, CAMERAS, []),
        ("beyond", 2, BEYOND, []),
        ("schedule", 2, CAMERAS, []),
        ("parts", 1, CAMERAS, []),
        ("parts", 2, [*CAMERAS, "--is_continue"], []),
        ("grown", 2, [*ODD, "--is_continue"], []),
        ("pale", 2, fault("model_class", "PaleModel"), []),
        ("stopped", 3, fault("loss_class", "StoppedLoss"), []),
        ("timed", 3, ["--max_minutes", "60"], ["--max_minutes", "1e-6"]),
        ("nan", 3, fault("model_class", "NanModel"), []),
        ("few", 3, ["--set", "train.num_pixels=1"], []),
        ("missing", 3, [], ["--data_root", str(root / "nowhere")]),
        ("killed", 3, fault("loss_class", "KilledLoss"), []),  # the last, for want of a second process
    ]
    entries = [
        {
            "name": name,
            "port": port,
            "arguments": tiny.command(
                root,
                *flags,
                nepoch=nepoch,
                exps=name,
                conf=f"{'schedule' if name == 'schedule' else 'tiny'}.conf",
            ),
            "rank1": rank1,
        }
        for (name, nepoch, flags, rank1), port in zip(plan, free_ports(len(plan)), strict=True)
    ]
    (root / "plan").write_text(json.dumps(entries))
    driver = REPOSITORY / "tests" / "training" / "two_ranks.py"
    done = subprocess.run(
        [str(warm_python), *TORCHRUN, str(driver), str(root / "plan")],
        env=environment(), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (root / "killed").is_dir(), done.stderr
    statuses = [json.loads((root / f"plan.{rank}").read_text()) for rank in range(2)]
    return Ran(root, done.returncode, statuses, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def alone(ran: Ran) -> Path:
    """The same by one process: ``fixed1`` and ``cameras1``."""
    assert main(tiny.command(ran.root, *ODD, nepoch=2, exps="fixed1")) == 0
    assert main(tiny.command(ran.root, *CAMERAS, nepoch=2, exps="cameras1")) == 0
    assert main(tiny.command(ran.root, *BEYOND, nepoch=2, exps="beyond1")) == 0
    assert main(tiny.command(ran.root, *CAMERAS, nepoch=2, exps="schedule1", conf="schedule.conf")) == 0
    return ran.root


def largest_difference(left: Path, right: Path, part: str, key: str) -> float:
    one, two = (tiny.parts_of(run)[part][key] for run in (left, right))
    assert list(one) == list(two)
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def assert_same_training(left: Path, right: Path) -> None:
    """Losses of all epochs and weights at the end agree up to rounding, and the files have one form."""
    rows = [tiny.metrics_rows(run) for run in (left, right)]
    assert len(rows[0]) == len(rows[1]) > 0
    for one, two in zip(*rows, strict=True):
        assert list(one) == list(two)
        for name in set(one) - {"minutes"}:
            # Six digits are written.
            assert float(two[name]) == pytest.approx(float(one[name]), rel=5e-5), name
    for part, key in (
        ("ModelParameters", "model_state_dict"),
        ("CamParameters", "pose_vecs_state_dict"),
    ):
        if part in tiny.parts_of(left):
            assert largest_difference(left, right, part, key) < ROUNDING
    for kind in ("optimizer", "optimizer_cam"):  # Adam forgives a gradient of another scale, its means do not
        for one, two in zip(means_of(left, kind), means_of(right, kind), strict=True):
            assert float((one - two).abs().max()) <= 1e-3 * float(one.abs().max())
    if "CameraState" in tiny.parts_of(left):
        one, two = (tiny.parts_of(run)["CameraState"] for run in (left, right))
        assert float((one["twists"] - two["twists"]).abs().max()) < ROUNDING
        assert float((one["intrinsics"]["focal"] - two["intrinsics"]["focal"]).abs().max()) < ROUNDING
        for kind in ("optimizer_poses", "optimizer_intrinsics"):
            means = [next(iter(part[kind]["state"].values()))["exp_avg"] for part in (one, two)]
            assert float((means[0] - means[1]).abs().max()) <= 1e-3 * float(means[0].abs().max()) > 0
    if "RecipeState" in tiny.parts_of(left):
        one, two = (tiny.parts_of(run)["RecipeState"] for run in (left, right))
        assert one["open_levels"] == two["open_levels"]
        assert float((one["error_maps"] - two["error_maps"]).abs().max()) < 2 / 1024  # they are rounded so
    if "ExposureState" in tiny.parts_of(left):
        one, two = (tiny.parts_of(run)["ExposureState"] for run in (left, right))
        for number, name in enumerate(("log_gain", "offset")):
            assert float((one[name] - two[name]).abs().max()) < ROUNDING < float(one[name].abs().max())
            means = [part["optimizer"]["state"][number]["exp_avg"] for part in (one, two)]
            assert float((means[0] - means[1]).abs().max()) <= 1e-3 * float(means[0].abs().max()) > 0
    assert form_of(tiny.parts_of(left)) == form_of(tiny.parts_of(right))


def means_of(run: Path, kind: str) -> list[torch.Tensor]:
    """Adam's running means of gradients."""
    part = "OptimizerCamParameters" if kind == "optimizer_cam" else "OptimizerParameters"
    content = tiny.parts_of(run).get(part)
    states = content[f"{kind}_state_dict"]["state"].values() if content else []
    return [state["exp_avg"] for state in states]


def form_of(content: object) -> object:
    """Names, types and shapes of nested content."""
    if isinstance(content, torch.Tensor):
        return content.dtype, tuple(content.shape)
    if isinstance(content, dict):
        return {key: form_of(value) for key, value in content.items()}
    return type(content)


@pytest.mark.parametrize("name", ["fixed", "cameras", "beyond", "schedule"])
def test_two_processes_train_as_one(ran: Ran, alone: Path, name: str) -> None:
    assert [statuses[name] for statuses in ran.statuses] == [0, 0]
    assert_same_training(tiny.only_run(alone / f"{name}1"), ran.run(name))


def test_the_comparison_sees_other_training(ran: Ran, alone: Path) -> None:
    first = tiny.parts_of(ran.run("fixed"), "1")["ModelParameters"]["model_state_dict"]
    last = tiny.parts_of(ran.run("fixed"))["ModelParameters"]["model_state_dict"]
    assert max(float((first[name] - last[name]).abs().max()) for name in first) > 100 * ROUNDING


def test_stopped_and_continued_gives_the_same_bits(ran: Ran) -> None:
    assert tiny.checkpoint_digests(ran.run("parts")) == tiny.checkpoint_digests(ran.run("cameras"))
    assert len(tiny.checkpoint_digests(ran.run("parts"))) == 7  # five of the published kinds, and two of ours


def test_one_process_goes_on_as_two(ran: Ran, alone: Path) -> None:
    assert [statuses["grown"] for statuses in ran.statuses] == [0, 0]
    assert_same_training(tiny.only_run(alone / "fixed1"), ran.run("grown"))


def test_two_processes_go_on_as_one(ran: Ran, alone: Path) -> None:
    flags = ["--is_continue", "--checkpoint", "1", "--new_run"]
    (run,) = [path for path in (ran.root / "fixed" / "tiny").iterdir()]
    assert main(tiny.command(ran.root, *ODD, *flags, "--timestamp", run.name, nepoch=2, exps="fixed")) == 0
    (new,) = [path for path in (ran.root / "fixed" / "tiny").iterdir() if path != run]
    one = tiny.only_run(alone / "fixed1")
    assert largest_difference(one, new, "ModelParameters", "model_state_dict") < ROUNDING
    new.rename(ran.root / "gone on alone")  # the other tests expect one run there


def test_parameters_that_a_process_does_not_use(ran: Ran) -> None:
    assert [statuses["pale"] for statuses in ran.statuses] == [0, 0]
    steps = {state["step"] for state in adam_of(ran.run("pale")).values()}
    # The geometry took all ten steps; in the fourth no process used the rendering network, and Adam passed it
    # over as in one process.
    assert steps == {9, 10}


def adam_of(run: Path) -> dict[int, dict[str, int]]:
    return tiny.parts_of(run)["OptimizerParameters"]["optimizer_state_dict"]["state"]


def test_a_signal_to_one_process_stops_all_after_the_same_step(ran: Ran) -> None:
    assert [statuses["stopped"] for statuses in ran.statuses] == [130, 130]
    assert CheckpointFolder(ran.run("stopped") / "checkpoints").position_of() == (0, 4)
    assert "stopped in epoch 0, step 4; the state is saved" in ran.output


def test_the_first_clock_to_run_out_stops_all_after_the_same_step(ran: Ran) -> None:
    assert [statuses["timed"] for statuses in ran.statuses] == [0, 0]
    assert CheckpointFolder(ran.run("timed") / "checkpoints").position_of() == (0, 1)
    assert "stopped in epoch 0, step 1: --max_minutes 60 are over; the state is saved" in ran.output


def test_a_loss_that_is_not_finite_in_one_process_stops_all(ran: Ran) -> None:
    assert [statuses["nan"] for statuses in ran.statuses] == [1, 1]
    assert ran.errors.count("stopped: epoch 0, step 3: loss, rgb_loss not finite in view") == 1
    assert (ran.run("nan") / "nonfinite_0_3.pth").is_file()
    assert CheckpointFolder(ran.run("nan") / "checkpoints").names() == ["0"]


def test_a_mistake_of_one_process_ends_all_and_leaves_no_trace(ran: Ran) -> None:
    for name, message in (
        ("few", "error: 2 processes share the pixels of each image, which are 1; raise"),
        ("missing", str(ran.root / "nowhere")),
    ):
        assert [statuses[name] for statuses in ran.statuses] == [2, 2]
        assert ran.errors.count(message) == 1
        assert not (ran.root / name).exists()


def test_one_process_speaks(ran: Ran) -> None:
    trained = 12  # entries of the plan that get as far as a run
    assert (
        len(re.findall(r"5 images, [\d,]+ parameters, on cpu \(1 thread\), 2 processes", ran.output))
        == trained
    )
    assert ran.output.count("\nrun: ") + ran.output.startswith("run: ") == trained
    assert "Traceback" not in ran.errors.split("torch/distributed/elastic")[0]  # torchrun's, at the end


def test_the_death_of_one_process_ends_all(ran: Ran) -> None:
    assert ran.status != 0 and "exitcode  : -9" in ran.errors  # torchrun's own account of who died
    assert ran.statuses[0]["killed"] == 1 and "killed" not in ran.statuses[1]
    assert "stopped: process 0 of 2: another process ended or does not answer" in ran.errors
    assert CheckpointFolder(ran.run("killed") / "checkpoints").names() == ["0"]
    flags = ["--is_continue", *fault("loss_class", "KilledLoss")]
    assert main(tiny.command(ran.root, *flags, nepoch=1, exps="killed")) == 0


@pytest.fixture
def started(scene_root: Path, tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended whatever happens."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()


def torchrun(scene_root: Path, exps: Path, *flags: str) -> subprocess.Popen[str]:
    arguments = tiny.command(scene_root, *flags, nepoch=1_000_000, exps=str(exps))
    # Not `warm_python`: torch reads the level of its log when it is imported.
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, str(EXP_RUNNER), *arguments],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_ctrl_c_is_passed_on_and_saves(
    scene_root: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    started.append(torchrun(scene_root, tmp_path / "exps", "--set", "train.checkpoint_freq=1000000"))
    deadline = time.monotonic() + 60
    while not list((tmp_path / "exps").glob("*/*/metrics.csv")):
        assert started[0].poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    started[0].send_signal(signal.SIGINT)
    output, errors = started[0].communicate(timeout=60)
    run = tiny.only_run(tmp_path / "exps")
    epoch, step = CheckpointFolder(run / "checkpoints").position_of()
    assert epoch + step > 0
    assert f"stopped in epoch {epoch}, step {step}; the state is saved" in output
    assert errors.count("stopping after this step") == 1  # the first process's
    assert "find_unused_parameters" not in errors  # a warning of torch's in each process
    assert main(tiny.command(scene_root, "--is_continue", nepoch=epoch + 1, exps=str(tmp_path / "exps"))) == 0
