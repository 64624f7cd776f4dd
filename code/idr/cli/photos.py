"""``idr-photos``: from a folder of photographs to a coloured mesh and a report, step by step."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from idr.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_STOPPED,
    add_device_arguments,
    make_parser,
    parse,
    run,
    say,
)
from idr.errors import InputError, MissingInputError

DESCRIPTION = (
    "Takes photographs of an object (or whatever else import_scene.py reads) all the "
    "way: import, check, training, coloured GLB, report. Called again it goes on where it was cut off, and "
    "does again what changed inputs make stale."
)
EXAMPLES = """\
  python preprocess/photos.py ~/photos/mug
  python preprocess/photos.py ~/photos/mug --max_minutes 60 --out ~/mug
  python preprocess/photos.py ~/photos/mug --out ~/mug --from mesh --resolution 400"""
LONGEST_SIDE = 1280
"""Photographs are reduced to this many pixels along the longer side, unless --downscale says otherwise."""
KINDS_WITH_MASKS = ("transforms", "neus", "idr")
MASK_FOLDERS = ("mask", "masks")
DATA_DIR, SCAN = "photos", 0
STEPS = ("import", "doctor", "train", "mesh", "report")


class StoppedError(Exception):
    """A step ended the chain.

    Args:
        step: The step.
        reason: The reason's name, and what to do.
        status: Exit status.
    """

    def __init__(self, step: str, reason: str, status: int) -> None:
        super().__init__(f"stopped at {step}: {reason}")
        self.status = status


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    parser.add_argument("source", type=Path, metavar="FOLDER", help="photographs, or any scene to import")
    parser.add_argument(
        "--out", type=Path, help="folder for all results; default: evals/photos/<name of FOLDER>"
    )
    parser.add_argument(
        "--max_minutes", type=float, default=30.0, metavar="M", help="time for training, all calls together"
    )
    parser.add_argument("--conf", default="./confs/photos.conf", help="HOCON configuration file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a key of it",
    )
    parser.add_argument("--nepoch", type=int, default=30, help="passes over the images at most")
    parser.add_argument(
        "--masks", help="as import_scene.py's; default: auto where the source is of a kind without masks"
    )
    parser.add_argument(
        "--downscale", type=int, help=f"as import_scene.py's; default: to {LONGEST_SIDE} pixels at most"
    )
    parser.add_argument(
        "--resolution", type=int, default=256, help="grid samples along the mesh's shortest side"
    )
    parser.add_argument(
        "--despite",
        action="append",
        default=[],
        metavar="NAME",
        help="go on although the check found NAME (docs/troubleshooting.md); may be given several times",
    )
    parser.add_argument("--from", dest="from_step", choices=STEPS, help="do this step and all after it again")
    add_device_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit status: 0 when all is done, 1 where a step stopped the chain, 2 for a mistake in the input.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _chain(arguments))


def _chain(arguments: argparse.Namespace) -> int:
    from idr.config import project_root
    from idr.failures import NAMES

    for name in arguments.despite:
        if name not in NAMES:
            raise InputError(f"--despite {name}: expected one of {', '.join(NAMES)}")
    source = arguments.source.expanduser().resolve()
    if not source.exists():
        raise MissingInputError(f"no folder {source}; expected photographs, or a scene to import")
    if not arguments.max_minutes > 0:
        raise InputError(f"--max_minutes {arguments.max_minutes:g}: expected a number of minutes above 0")
    default = project_root() / "evals" / "photos" / source.stem
    out = arguments.out.expanduser().resolve() if arguments.out else default
    if out == source or source in out.parents:
        raise InputError(f"--out {out} lies in {source}; expected another folder: results are no photographs")
    chain = Chain(arguments, source, out)
    try:
        chain.run()
    except StoppedError as stop:
        say(f"{stop}\nto go on from there: the same command")
        return stop.status
    return EXIT_OK


class Chain:
    """The steps, each with what it depends on.

    Args:
        arguments: The command's.
        source: What to import.
        out: The working folder.
    """

    def __init__(self, arguments: argparse.Namespace, source: Path, out: Path) -> None:
        from idr.journal import Journal

        self.arguments, self.source, self.out = arguments, source, out
        self.journal = Journal(out, STEPS)
        self.scan = out / "data" / DATA_DIR / f"scan{SCAN}"
        self.mesh, self.report = out / "mesh.glb", out / "report.html"
        self.results: list[Any] = []

    def run(self) -> None:
        """Does what is not done."""
        from idr.journal import files_state

        given = self.arguments
        if given.from_step:
            self.journal.forget_from(given.from_step)
        imported = [str(self.source), files_state(self.source), given.masks, given.downscale]
        self._step("import", imported, [self.scan / "cameras.npz"], self._import)
        self._step("doctor", sorted(given.despite), [], self._doctor)
        trained = self._step("train", [*self._training(), given.max_minutes], [], self._train)
        self.run_flags = ["--timestamp", trained["timestamp"], "--expname", trained["expname"]]
        self._step("mesh", given.resolution, [self.mesh], self._mesh)
        self._step("report", [], [self.report], self._report)
        say(f"\nmesh: {self.mesh}\nreport: {self.report}\ncheckpoint: {trained['checkpoint']}")

    def _step(
        self, step: str, inputs: Any, outputs: list[Path], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Does a step unless it was done with the same inputs, those of all steps before it included."""
        from idr.journal import fingerprint

        self.inputs = fingerprint(step, inputs, self.results)
        result = self.journal.result(step, self.inputs, outputs)
        if result is None:
            say(f"\n== {step}")
            result = work()
            self.journal.finish(step, self.inputs, result)
        else:
            say(f"== {step}: done already")
        self.results.append([self.inputs, result])
        return result

    def _import(self) -> dict[str, Any]:
        from idr.cli import import_scene

        downscale = self.arguments.downscale or _downscale_for(self.source)
        argv = [str(self.source), "--out", str(self.scan), "--downscale", str(downscale)]
        masks = self.arguments.masks or _masks_for(self.source)
        argv += ["--masks", masks] if masks else []
        argv += ["--force"] if self.scan.exists() else []
        if import_scene.main(argv):
            raise StoppedError("import", "import-failed: the message above says what to do", EXIT_STOPPED)
        return {"downscale": downscale, "masks": masks}

    def _doctor(self) -> dict[str, Any]:
        from idr.preprocess.doctor import diagnose_scene
        from idr.preprocess.scene_views import EXACT_CAMERAS

        findings = diagnose_scene(self.scan, EXACT_CAMERAS)
        for finding in findings:
            say(str(finding))
        stopping = [finding.name for finding in findings if finding.name not in self.arguments.despite]
        if stopping:
            despite = " ".join(f"--despite {name}" for name in stopping)
            masks = self.scan / "masks.png"
            reason = f"{', '.join(stopping)}: mend it as said above (look at {masks}), or add {despite}"
            raise StoppedError("doctor", reason, EXIT_STOPPED)
        if not findings:
            say("masks, cameras and unit sphere fit together")
        return {"findings": [finding.name for finding in findings]}

    def _conf_flags(self) -> list[str]:
        from idr.datasets.images import list_images, load_rgb

        height, width = load_rgb(list_images(self.scan / "image")[0]).shape[:2]
        keys = [
            f"dataset.data_dir={DATA_DIR}",
            f"dataset.img_res=[{height},{width}]",
            *self.arguments.overrides,
        ]
        argv = ["--conf", self.arguments.conf, "--scan_id", str(SCAN), "--data_root", str(self.out / "data")]
        argv += ["--exps_folder", str(self.out / "exps"), "--gpu", self.arguments.gpu]
        argv += ["--device", self.arguments.device] if self.arguments.device else []
        for key in keys:
            argv += ["--set", key]
        return argv

    def _training(self) -> list[Any]:
        """What a run depends on: with the same, training goes on in the same run."""
        from idr.config import load_conf

        conf = load_conf(self.arguments.conf, self.arguments.overrides).as_plain_ordered_dict()
        return [conf, self.arguments.nepoch]

    def _train(self) -> dict[str, Any]:
        from idr.cli import train
        from idr.config import load_conf
        from idr.journal import fingerprint
        from idr.training.progress import MetricsFile
        from idr.workspace import CHECKPOINTS, CheckpointFolder, find_run, run_name

        suffix = "_" + fingerprint(self._training(), self.results)[:8]
        expname = str(load_conf(self.arguments.conf, self.arguments.overrides)["train.expname"])
        name, exps = run_name(expname, suffix, SCAN), self.out / "exps"
        argv = [*self._conf_flags(), "--expname", suffix, "--nepoch", str(self.arguments.nepoch)]
        left = self.arguments.max_minutes
        if self.arguments.from_step != "train" and (exps / name).is_dir():
            argv.append("--is_continue")
            try:
                metrics = find_run(exps, name) / "metrics.csv"
                left -= MetricsFile(metrics, self.arguments.nepoch).minutes_so_far
            except MissingInputError:
                pass  # cut off before the first checkpoint; training says that it starts anew
        if left > 0:
            status = train.main([*argv, "--max_minutes", f"{left:.4f}"])
            if status == EXIT_INTERRUPTED:
                raise StoppedError("train", "interrupted: the state is saved", status)
            if status:
                raise StoppedError(
                    "train", "training-stopped: the message above says what to do", EXIT_STOPPED
                )
        else:
            say(f"--max_minutes {self.arguments.max_minutes:g} were spent before")
        folder = find_run(exps, name)
        checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        position = checkpoints.position_of()
        latest = checkpoints.path / "ModelParameters" / "latest.pth"
        return {
            "timestamp": folder.name, "expname": suffix, "position": position, "checkpoint": str(latest)
        }  # fmt: skip

    def _mesh(self) -> dict[str, Any]:
        from idr.cli import export_mesh

        colours = "views"
        if importlib.util.find_spec("embreex") is None:
            colours = "normal"
            say("colours as seen along normals: those of the views need pip install 'idr[mesh]'")
        argv = [*self._conf_flags(), *self.run_flags, "--out", str(self.mesh), "--force"]
        if export_mesh.main([*argv, "--resolution", str(self.arguments.resolution), "--colors", colours]):
            reason = (
                "mesh-failed: the message above says why; where there is no surface yet, train longer "
                "(--max_minutes) or look at the masks"
            )
            raise StoppedError("mesh", reason, EXIT_STOPPED)
        return {}

    def _report(self) -> dict[str, Any]:
        from idr.cli import report

        if report.main([*self._conf_flags(), *self.run_flags, "--out", str(self.report)]):
            raise StoppedError("report", "report-failed: the message above says what to do", EXIT_STOPPED)
        return {}


def _downscale_for(source: Path) -> int:
    """Returns the least factor that brings the first photograph below `LONGEST_SIDE`."""
    from PIL import Image

    from idr.datasets.images import IMAGE_ENDINGS

    folder = source if source.is_dir() else source.parent
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS:
            with Image.open(path) as image:
                return -(-max(image.size) // LONGEST_SIDE)
    return 1


def _masks_for(source: Path) -> str | None:
    """Returns --masks for a source: auto where its kind, and its folder, have none."""
    from idr.importers.recognise import recognise

    if recognise(source) in KINDS_WITH_MASKS or any((source / name).is_dir() for name in MASK_FOLDERS):
        return None
    return "auto"


if __name__ == "__main__":
    raise SystemExit(main())
