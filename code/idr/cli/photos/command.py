"""``idr photos``: from a folder of photographs to a colored mesh and a report, in six steps."""

from __future__ import annotations

import argparse
import importlib.util
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from idr.cli.photos.journal import Journal, StoppedError, files_state, fingerprint, require_success
from idr.cli.photos.training import DATA_DIR, SCAN, SPEED_TRIAL, PhotoTraining
from idr.cli.shared.common import (
    EXIT_OK,
    add_conf_arguments,
    choose_device,
    make_parser,
    run_command,
    say,
)
from idr.cli.shared.confs import check_conf, read_conf
from idr.cli.shared.flags import add_flags, check_at_least
from idr.cli.shared.runs import check_writable
from idr.errors import InputError, MissingInputError

DESCRIPTION = (
    "Reconstructs an object from photographs, or from any other source of import_scene.py: import, check, "
    "speed trial, training, colored GLB, report. A second call continues where the first stopped and repeats "
    "the steps whose inputs changed."
)
EXAMPLES = """\
  %(prog)s ~/photos/mug
  %(prog)s ~/photos/mug --max_minutes 60 --out ~/mug
  %(prog)s ~/photos/mug --out ~/mug --from mesh --resolution 400"""
LONGEST_SIDE = 1280
"""Largest side of the reduced photographs, pixels, without --downscale."""
KINDS_WITH_MASKS = ("transforms", "neus", "idr")
MASK_FOLDERS = ("mask", "masks")
STEPS = ("import", "doctor", SPEED_TRIAL, "train", "mesh", "report")
STEP_ALIASES = {"pace": SPEED_TRIAL}
"""Former names of steps, which --from still accepts."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "photos")
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER", help="photographs, or any source of import_scene.py")
    add("--out", type=Path, help="folder for all results; default: evals/photos/<name of FOLDER>")
    minutes = "training time in minutes over all calls"
    add("--max_minutes", type=float, default=30.0, metavar="M", help=minutes)
    add_conf_arguments(parser, "./confs/photos.conf", data_root=False)
    passes = "passes over the images, the length of all schedules; default: as many as --max_minutes allows"
    add("--nepoch", type=int, metavar="N", help=passes)
    add("--masks", help="as for import_scene.py; default: auto for sources without masks")
    add("--downscale", type=int, help=f"as for import_scene.py; default: to at most {LONGEST_SIDE} pixels")
    add("--resolution", type=int, default=256, help="grid samples along the mesh's shortest side")
    despite = "continue despite the finding NAME (docs/troubleshooting.md); may be given several times"
    add("--despite", action="append", default=[], metavar="NAME", help=despite)
    add(
        "--from", dest="from_step", type=lambda name: STEP_ALIASES.get(name, name), choices=STEPS,
        help="repeat this step and all later ones",
    )  # fmt: skip
    add_flags(parser, "gpu", "device")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments; returns the exit status.

    It is 0 if all steps succeeded, 1 if one stopped the chain, 2 for bad input.
    """
    return run_command(build_parser(), argv, _chain)


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
    default = project_root() / "evals" / "photos" / source.stem
    out = arguments.out.expanduser().resolve() if arguments.out else default
    if out == source or source in out.parents:
        raise InputError(f"--out {out} lies in {source}; expected a folder outside the photographs")
    check_at_least(arguments, nepoch=1, downscale=1, resolution=2)
    choose_device(arguments.gpu, arguments.device)
    check_conf(read_conf(arguments.conf, arguments.overrides))
    chain = Chain(arguments, source, out)
    check_writable(chain.mesh, chain.report)
    try:
        chain.run()
    except StoppedError as stop:
        say(f"{stop}\nto continue from there: the same command")
        return stop.status
    return EXIT_OK


class Chain:
    """The steps from `source`, a folder or file, to `out`, each with the inputs on which it depends."""

    def __init__(self, arguments: argparse.Namespace, source: Path, out: Path) -> None:
        self.arguments, self.source, self.out = arguments, source, out
        self.journal = Journal(out, STEPS)
        self.scan = out / "data" / DATA_DIR / f"scan{SCAN}"
        self.mesh, self.report = out / "mesh.glb", out / "report.html"
        self.results: list[Any] = []

    def run(self) -> None:
        """Runs the steps that are not done."""
        from idr.conf.files import load_conf

        arguments = self.arguments
        if arguments.from_step:
            self.journal.forget_from(arguments.from_step)
        imported = [str(self.source), files_state(self.source), arguments.masks, arguments.downscale]
        self._step("import", imported, [self.scan / "cameras.npz"], self._import)
        self._step("doctor", sorted(arguments.despite), [], self._doctor)
        conf = load_conf(arguments.conf, arguments.overrides).as_plain_ordered_dict()
        # With more minutes the same run continues; another conf, scene or number of epochs begins a new run.
        suffix = "_" + fingerprint(conf, arguments.nepoch, self.results)[:8]
        anew = arguments.from_step is not None and STEPS.index(arguments.from_step) <= STEPS.index("train")
        training = PhotoTraining(arguments, self.scan, self.out, suffix, anew)
        inputs = [conf, arguments.nepoch, arguments.max_minutes]
        trial = self._step(SPEED_TRIAL, inputs, [], training.choose_epochs)
        trained = self._step("train", suffix, [], lambda: training.train(trial))
        self.run_flags = [*training.flags(), "--timestamp", trained["timestamp"], "--expname", suffix]
        self._step("mesh", arguments.resolution, [self.mesh], self._mesh)
        self._step("report", [], [self.report], self._report)
        say(f"\nmesh: {self.mesh}\nreport: {self.report}\ncheckpoint: {trained['checkpoint']}")

    def _step(
        self, step: str, inputs: Any, outputs: list[Path], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Runs a step unless it was done with the same inputs, including those of all earlier steps."""
        digest = fingerprint(step, inputs, self.results)
        result = self.journal.result(step, digest, outputs)
        if result is None:
            say(f"\n== {step}")
            result = work()
            self.journal.finish(step, digest, result)
        else:
            say(f"== {step}: done already")
        self.results.append([digest, result])
        return result

    def _import(self) -> dict[str, Any]:
        from idr.cli import import_scene

        for path in self.scan.parent.glob(f".{self.scan.name}.*"):
            if path.suffix in (".tmp", ".old"):  # of killed imports
                shutil.rmtree(path)
        downscale = self.arguments.downscale or _downscale_for(self.source)
        argv = [str(self.source), "--out", str(self.scan), "--downscale", str(downscale)]
        masks = self.arguments.masks or _masks_for(self.source)
        argv += ["--masks", masks] if masks else []
        argv += ["--force"] if self.scan.exists() else []
        require_success("import", import_scene.main(argv), "import-failed: see the message above")
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
            reason = f"{', '.join(stopping)}: fix it as described above (see {masks}), or add {despite}"
            raise StoppedError("doctor", reason)
        if not findings:
            say("masks, cameras and unit sphere fit together")
        return {"findings": [finding.name for finding in findings]}

    def _mesh(self) -> dict[str, Any]:
        from idr.cli import export_mesh

        colors = "views"
        if importlib.util.find_spec("embreex") is None:
            colors = "normal"
            say("colors are evaluated along the normals: colors from the views need pip install 'idr[mesh]'")
        argv = [*self.run_flags, "--out", str(self.mesh), "--force", "--colors", colors]
        status = export_mesh.main([*argv, "--resolution", str(self.arguments.resolution)])
        remedy = "if there is no surface yet, train longer (--max_minutes) or check the masks"
        require_success("mesh", status, f"mesh-failed: see the message above; {remedy}")
        return {}

    def _report(self) -> dict[str, Any]:
        from idr.cli import report

        status = report.main([*self.run_flags, "--out", str(self.report)])
        require_success("report", status, "report-failed: see the message above")
        return {}


def _downscale_for(source: Path) -> int:
    """Returns the smallest factor that reduces the first photograph to `LONGEST_SIDE` pixels at most."""
    from PIL import Image

    from idr.datasets.images import IMAGE_ENDINGS

    folder = source if source.is_dir() else source.parent
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS:
            with Image.open(path) as image:
                return -(-max(image.size) // LONGEST_SIDE)
    return 1


def _masks_for(source: Path) -> str | None:
    """Returns --masks for a source: auto if neither its type nor its folder has masks."""
    from idr.importers.recognize import recognize

    if recognize(source) in KINDS_WITH_MASKS or any((source / name).is_dir() for name in MASK_FOLDERS):
        return None
    return "auto"


if __name__ == "__main__":
    raise SystemExit(main())
