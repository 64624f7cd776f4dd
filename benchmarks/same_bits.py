r"""Compares two checkouts bit by bit: trained weights, losses, a mesh and renderings.

    python benchmarks/same_bits.py ../old_checkout
    python benchmarks/same_bits.py ../old_checkout --cases fast dtu --resume

Each case trains three epochs in both checkouts, with the confs that each checkout ships, then meshes and
renders the result with ``eval.py``. The two checkouts run side by side with one thread each. ``--resume``
also continues a copy of the old checkout's run from its first epoch with the new code, and compares the end
of both. Prints a table; the exit status is 1 if anything differs. A refactoring has to leave every row equal.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import trimesh

NEW = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(NEW / "code"))

from idr.cli.shared.common import say  # noqa: E402

EPOCHS = 3
VIEWS, HELD_OUT = 8, [0, 9]
"""Views to train on, and numbers of those that are only rendered."""
RESOLUTION = 64
"""Samples of the mesh's grid along its shortest side."""
UNTIMED = "minutes"
"""The column of ``metrics.csv`` that no two runs share."""
SUFFIX = "_same_bits"
"""Of the runs' names."""
RENAMED = {
    "open_colour_levels": "open_color_levels",
    "colour_encoding": "color_encoding",
    "camera_centre": "camera_center",
}
"""Keys and names in checkpoints and columns of ``metrics.csv``, old name to new."""


@dataclass(frozen=True)
class Case:
    """One conf to train.

    Attributes:
        conf: Its name below ``confs/``.
        scene: Folder of the data root.
        overrides: ``key=value`` texts, which both checkouts know.
        train_cameras: Whether cameras are trained and evaluated, too.
    """

    conf: str
    scene: str = "demo"
    overrides: tuple[str, ...] = ()
    train_cameras: bool = False


CASES = {
    "demo_published": Case("demo.conf"),
    "demo_accelerated": Case("demo.conf", overrides=("model.ray_tracer.strategy=accelerated",)),
    "fast": Case("fast.conf"),
    "fast_trained_cameras": Case("fast_demo_trained_cameras.conf", train_cameras=True),
    "dtu": Case(
        "dtu_fixed_cameras.conf",
        scene="small",
        overrides=("dataset.data_dir=small", "dataset.img_res=[75,100]", "train.num_pixels=512"),
    ),
}


@dataclass(frozen=True)
class Checkout:
    """A checkout and the folder that its results go to."""

    root: Path
    out: Path

    def call(self, script: str, *arguments: object, log: str) -> None:
        """Runs a script of the checkout with one thread; its output goes to a log.

        Raises:
            SystemExit: The script failed.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        file = self.out / f"{log}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        with file.open("w") as stream:
            status = subprocess.run(
                [sys.executable, script, *map(str, arguments)], cwd=self.root / "code", env=environment,
                stdout=stream, stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        if status:
            raise SystemExit(f"{self.root}: {script} failed with exit status {status}; see {file}")

    def run_folder(self, name: str) -> Path:
        """Returns the one run of a case."""
        (checkpoints,) = (self.out / name).glob("exps/*/*/checkpoints")
        return checkpoints.parent

    def train(self, name: str, data: Path, *more: object) -> None:
        """Trains a case, or continues it."""
        case = CASES[name]
        arguments = self._arguments(name, data)
        cameras = ("--train_cameras",) if case.train_cameras else ()
        every = ("--set", "train.checkpoint_freq=1", "--set", "train.plot_freq=1000")
        self.call(
            "training/exp_runner.py", *arguments, *cameras, *every, "--nepoch", EPOCHS, "--threads", 1,
            *more, log=f"{name}_train",
        )  # fmt: skip

    def evaluate(self, name: str, data: Path) -> None:
        """Meshes and renders a case."""
        cameras = ("--eval_cameras",) if CASES[name].train_cameras else ()
        (self.out / name / "evals").mkdir()
        self.call(
            "evaluation/eval.py", *self._arguments(name, data), *cameras, "--eval_rendering",
            "--resolution", RESOLUTION, log=f"{name}_eval",
        )  # fmt: skip
        # Beside the runs, by earlier versions beside code/; the run's suffix makes the folder ours.
        evals = self.out / name / "evals"
        (written,) = (*(self.root / "evals").glob(f"*{SUFFIX}*"), *evals.glob(f"*{SUFFIX}*"))
        shutil.move(written, evals / "result")

    def _arguments(self, name: str, data: Path) -> list[object]:
        case = CASES[name]
        arguments: list[object] = ["--conf", f"./confs/{case.conf}", "--scan_id", 1, "--data_root", data]
        arguments += ["--exps_folder", self.out / name / "exps", "--expname", SUFFIX]
        for override in (f"dataset.holdout={HELD_OUT}", *case.overrides):
            arguments += ["--set", override]
        return arguments


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the tensors and plain values of a checkpoint file with their places."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{RENAMED.get(key, key)}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}/{index}")
    else:
        yield path, RENAMED.get(value, value) if isinstance(value, str) else value


def difference(one: Any, two: Any) -> float:
    """Returns the largest difference of two values: 0 for equal bits, infinity for another form."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        if one.shape != two.shape or one.dtype != two.dtype:
            return float("inf")
        if torch.equal(one, two):
            return 0.0
        return float((one.double() - two.double()).abs().max())
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return difference(torch.from_numpy(one), torch.from_numpy(two))
    if isinstance(one, float) and isinstance(two, float):
        return 0.0 if one == two or (one != one and two != two) else abs(one - two)
    return 0.0 if type(one) is type(two) and one == two else float("inf")


def compare_leaves(one: dict[str, Any], two: dict[str, Any]) -> tuple[float, str]:
    """Returns the largest difference of two sets of named values, and where it is."""
    worst, where = 0.0, ""
    for name in sorted(one.keys() | two.keys()):
        if name not in one or name not in two:
            return float("inf"), f"{name} is missing in the {'old' if name not in one else 'new'} one"
        found = difference(one[name], two[name])
        if found > worst:
            worst, where = found, name
    return worst, where


def weights(run: Path) -> dict[str, Any]:
    """Reads everything that the last checkpoint of a run holds."""
    content: dict[str, Any] = {}
    for file in sorted(run.glob("checkpoints/*/latest.pth")):
        part = torch.load(file, map_location="cpu", weights_only=True)
        content |= dict(leaves(part, file.parent.name))
    return content


def losses(run: Path) -> dict[str, Any]:
    """Reads the rows of ``metrics.csv``, less the time that they took."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        f"{index}/{RENAMED.get(key, key)}": value
        for index, row in enumerate(rows)
        for key, value in row.items()
        if key != UNTIMED
    }


def mesh(evals: Path) -> dict[str, Any]:
    """Reads the evaluated mesh."""
    (file,) = evals.glob("*/surface_world_coordinates_*.ply")
    surface = trimesh.load_mesh(file, process=False)
    return {"vertices": np.asarray(surface.vertices), "faces": np.asarray(surface.faces)}


def renderings(evals: Path) -> dict[str, Any]:
    """Reads the evaluated views."""
    return {str(f.relative_to(evals)): iio.imread(f) for f in sorted(evals.glob("*/rendering*/*.png"))}


def compare(name: str, old: Checkout, new: Checkout) -> list[tuple[str, str, float, str]]:
    """Compares the results of a case, row by row of the table."""
    rows = []
    evals = [side.out / name / "evals" for side in (old, new)]
    runs = [side.run_folder(name) for side in (old, new)]
    for what, read, places in (
        ("weights", weights, runs),
        ("losses", losses, runs),
        ("mesh", mesh, evals),
        ("renderings", renderings, evals),
    ):
        one, two = read(places[0]), read(places[1])
        assert one, f"{places[0]} holds no {what}"
        rows.append((name, what, *compare_leaves(one, two)))
    return rows


def compare_resumed(name: str, old: Checkout, new: Checkout, data: Path) -> tuple[str, str, float, str]:
    """Continues the old run from its first epoch by the new code; compares where both end."""
    copy = Checkout(new.root, new.out / "resumed")
    shutil.rmtree(copy.out / name, ignore_errors=True)
    shutil.copytree(old.out / name / "exps", copy.out / name / "exps")
    run = copy.run_folder(name)
    for file in run.glob("checkpoints/*/*.pth"):
        if file.stem != "1":
            file.unlink()
    copy.train(name, data, "--is_continue", "--checkpoint", 1)
    return (name, "resumed", *compare_leaves(weights(old.run_folder(name)), weights(run)))


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="the checkout to compare with")
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--resume", action="store_true", help="also continue the old runs with the new code")
    parser.add_argument("--keep", type=Path, help="folder for results; the old checkout's are used again")
    arguments = parser.parse_args()

    root = arguments.keep or Path(tempfile.mkdtemp(prefix="same_bits_"))
    root = root.resolve()
    data = root / "data"
    old = Checkout(arguments.old.resolve(), root / "old")
    new = Checkout(NEW, root / "new")
    if not data.is_dir():
        views = ("--views", VIEWS, "--holdout", len(HELD_OUT))
        for scene, size in (("demo", (128, 160)), ("small", (75, 100))):
            out = data / scene / "scan1"
            old.call("preprocess/make_demo_scene.py", "--out", out, "--img_res", *size, *views, log=scene)

    def results(side: Checkout, name: str) -> None:
        if side is old and (side.out / name / "evals" / "result").is_dir():
            return
        shutil.rmtree(side.out / name, ignore_errors=True)
        for left in (side.root / "evals").glob(f"*{SUFFIX}*"):
            shutil.rmtree(left)
        side.train(name, data)
        side.evaluate(name, data)

    rows: list[tuple[str, str, float, str]] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name in arguments.cases:
            list(pool.map(lambda side: results(side, name), (old, new)))  # noqa: B023
            rows += compare(name, old, new)
            if arguments.resume:
                rows.append(compare_resumed(name, old, new, data))
            for case, what, worst, where in rows[-5 if arguments.resume else -4 :]:
                verdict = "equal" if worst == 0 else f"DIFFERS by {worst:g} at {where}"
                say(f"{case:22} {what:11} {verdict}")
    differing = sum(worst != 0 for *_, worst, _ in rows)
    say(f"{len(rows) - differing} of {len(rows)} rows equal; results in {root}")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
