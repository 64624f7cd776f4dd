"""``idr-photos``: from a folder of photographs to a colored mesh and a report, step by step."""

from __future__ import annotations

import argparse
import importlib.util
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from idr.cli.photos.steps import StoppedError, require_success
from idr.cli.photos.training import DATA_DIR, SCAN, PhotoTraining
from idr.cli.shared.common import EXIT_OK, add_device_arguments, make_parser, parse, run, say
from idr.errors import InputError, MissingInputError

DESCRIPTION = (
    "Takes photographs of an object (or whatever else import_scene.py reads) all the "
    "way: import, check, training, colored GLB, report. Called again it goes on where it was cut off, and "
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
STEPS = ("import", "doctor", "pace", "train", "mesh", "report")


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
    parser.add_argument(
        "--nepoch",
        type=int,
        metavar="N",
        help="passes over the images, over which the schedules stretch; default: as many as fill the minutes",
    )
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
    """Runs the command with `argv`, by default the process's own; returns the exit status.

    It is 0 if all steps succeeded, 1 if one stopped the chain, 2 for bad input.
    """
    arguments = parse(build_parser(), argv)
    return run(lambda: _chain(arguments))


def _chain(arguments: argparse.Namespace) -> int:
    from idr.conf.files import project_root
    from idr.failures import NAMES

    for name in arguments.despite:
        if name not in NAMES:
            raise InputError(f"--despite {name}: expected one of {', '.join(NAMES)}")
    source = arguments.source.expanduser().resolve()
    if not source.exists():
        raise MissingInputError(f"no folder {source}; expected photographs, or a scene to import")
    if not 0 < arguments.max_minutes < math.inf:
        raise InputError(f"--max_minutes {arguments.max_minutes:g}: expected a number of minutes above 0")
    if arguments.nepoch is not None and arguments.nepoch < 1:
        raise InputError(f"--nepoch {arguments.nepoch}: expected 1 or more")
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
        from idr.cli.photos.journal import Journal

        self.arguments, self.source, self.out = arguments, source, out
        self.journal = Journal(out, STEPS)
        self.scan = out / "data" / DATA_DIR / f"scan{SCAN}"
        self.mesh, self.report = out / "mesh.glb", out / "report.html"
        self.results: list[Any] = []

    def run(self) -> None:
        """Does what is not done."""
        from idr.cli.photos.journal import files_state, fingerprint
        from idr.conf.files import load_conf

        given = self.arguments
        if given.from_step:
            self.journal.forget_from(given.from_step)
        imported = [str(self.source), files_state(self.source), given.masks, given.downscale]
        self._step("import", imported, [self.scan / "cameras.npz"], self._import)
        self._step("doctor", sorted(given.despite), [], self._doctor)
        conf = load_conf(given.conf, given.overrides).as_plain_ordered_dict()
        # More minutes go on in the same run; another conf, scene or number of epochs begins a new one.
        suffix = "_" + fingerprint(conf, given.nepoch, self.results)[:8]
        anew = given.from_step is not None and STEPS.index(given.from_step) <= STEPS.index("train")
        training = PhotoTraining(given, self.scan, self.out, suffix, anew)
        pace = self._step("pace", [conf, given.nepoch, given.max_minutes], [], training.pace)
        trained = self._step("train", suffix, [], lambda: training.train(pace))
        self.run_flags = [*training.flags(), "--timestamp", trained["timestamp"], "--expname", suffix]
        self._step("mesh", given.resolution, [self.mesh], self._mesh)
        self._step("report", [], [self.report], self._report)
        say(f"\nmesh: {self.mesh}\nreport: {self.report}\ncheckpoint: {trained['checkpoint']}")

    def _step(
        self, step: str, inputs: Any, outputs: list[Path], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Does a step unless it was done with the same inputs, those of all steps before it included."""
        from idr.cli.photos.journal import fingerprint

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

        _sweep(self.scan)
        downscale = self.arguments.downscale or _downscale_for(self.source)
        argv = [str(self.source), "--out", str(self.scan), "--downscale", str(downscale)]
        masks = self.arguments.masks or _masks_for(self.source)
        argv += ["--masks", masks] if masks else []
        argv += ["--force"] if self.scan.exists() else []
        require_success("import", import_scene.main(argv), "import-failed: the message above says what to do")
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
            raise StoppedError("doctor", reason)
        if not findings:
            say("masks, cameras and unit sphere fit together")
        return {"findings": [finding.name for finding in findings]}

    def _mesh(self) -> dict[str, Any]:
        from idr.cli import export_mesh

        colors = "views"
        if importlib.util.find_spec("embreex") is None:
            colors = "normal"
            say("colors as seen along normals: those of the views need pip install 'idr[mesh]'")
        argv = [*self.run_flags, "--out", str(self.mesh), "--force", "--colors", colors]
        status = export_mesh.main([*argv, "--resolution", str(self.arguments.resolution)])
        require_success(
            "mesh",
            status,
            "mesh-failed: the message above says why; where there is no surface yet, train longer "
            "(--max_minutes) or look at the masks",
        )
        return {}

    def _report(self) -> dict[str, Any]:
        from idr.cli import report

        status = report.main([*self.run_flags, "--out", str(self.report)])
        require_success("report", status, "report-failed: the message above says what to do")
        return {}


def _sweep(scan: Path) -> None:
    """Removes the hidden folders that imports left beside a scene when they were killed."""
    for path in scan.parent.glob(f".{scan.name}.*"):
        if path.suffix in (".tmp", ".old"):
            shutil.rmtree(path)


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
    from idr.importers.recognize import recognize

    if recognize(source) in KINDS_WITH_MASKS or any((source / name).is_dir() for name in MASK_FOLDERS):
        return None
    return "auto"


if __name__ == "__main__":
    raise SystemExit(main())
