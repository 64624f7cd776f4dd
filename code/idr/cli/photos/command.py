"""``idr photos``: from a folder of photographs to a colored mesh and a report, in six steps."""

from __future__ import annotations

import argparse
import importlib.util
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from idr.cli.export_mesh import check_mesh_packages, check_texture
from idr.cli.import_scene import ATTEMPT_FLAGS, KINDS, PHOTOGRAPHS, add_attempt_flags, check_masks
from idr.cli.photos.journal import Journal, StoppedError, files_state, fingerprint, require_success
from idr.cli.photos.training import (
    DATA_DIR,
    HELD_OUT_EVERY,
    MOST_HELD_OUT,
    SCAN,
    SPEED_TRIAL,
    PhotoTraining,
    held_out_images,
    training_minutes,
)
from idr.cli.shared.common import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    add_conf_arguments,
    choose_device,
    make_parser,
    run_command,
    say,
)
from idr.cli.shared.confs import check_conf, read_conf
from idr.cli.shared.flags import add_flags, add_switches, check_at_least
from idr.errors import InputError, MissingInputError
from idr.places import title_of
from idr.replacing import check_writable

DESCRIPTION = (
    "Reconstructs an object from photographs, or from any other source of import_scene.py: import, check, "
    "speed trial, training, colored GLB, report. A second call continues where the first stopped and repeats "
    "the steps whose inputs changed."
)
EXAMPLES = """\
  %(prog)s ~/photos/mug
  %(prog)s ~/photos/mug --max_minutes 60 --out ~/mug
  %(prog)s ~/videos/mug.mp4 --frames 80
  %(prog)s ~/photos/mug --out ~/mug --from mesh --resolution 400"""
LONGEST_SIDE = 1280
"""Largest side of the reduced photographs, pixels, without --downscale."""
MESH_MB, TEXTURED_FACES = 5, 20_000
"""Largest mesh with colors at its vertices, for mail and phones, and faces of a mesh with a texture."""
PASSED_ON = ("kind", "images", "points", "frames", "mask_command", "make_missing_masks", *ATTEMPT_FLAGS)
"""Options of import_scene.py that are passed on as they are."""
STEPS = ("import", "doctor", SPEED_TRIAL, "train", "mesh", "report")
STEP_ALIASES = {"pace": SPEED_TRIAL}
"""Former names of steps, which --from still accepts."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(DESCRIPTION, EXAMPLES, "photos")
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER", help="photographs, a video, or any source of import_scene.py")
    add("--out", type=Path, help="folder for all results; default: evals/photos/<name of FOLDER>")
    minutes = "wall time in minutes of all steps over all calls; training gets what the others leave"
    add("--max_minutes", type=float, default=30.0, metavar="M", help=minutes)
    add_conf_arguments(parser, "./confs/photos.conf", data_root=False)
    passes = "passes over the images, the length of all schedules; default: as many as --max_minutes allows"
    add("--nepoch", type=int, metavar="N", help=passes)
    held_out = (
        "photographs that training does not see, for the scores of the report, 0 for none; default: one in "
        f"{HELD_OUT_EVERY}, 2 or {MOST_HELD_OUT}, of {HELD_OUT_EVERY} or more"
    )
    add("--hold_out", type=int, metavar="N", help=held_out)
    add("--masks", help="as for import_scene.py; default: auto for sources without masks")
    add("--mask_command", metavar="COMMAND", help="program that makes each mask, as for import_scene.py")
    missing = "compute the masks of views without one from those of the others, as for import_scene.py"
    add_switches(parser, make_missing_masks=missing)
    add("--kind", choices=KINDS, help="type of FOLDER, as for import_scene.py; default: recognized")
    add("--images", help="folder of the images, as for import_scene.py")
    add("--points", help="sparse points on the object, as for import_scene.py")
    add("--frames", type=int, metavar="N", help="frames to take from a video; default: 60")
    add_attempt_flags(parser.add_argument_group("photographs alone", "as for import_scene.py"))
    measure = "make the unit a meter, as for import_scene.py: board:MM, cameras:IMAGE1,IMAGE2=METERS, ..."
    add("--scale_by", action="append", default=[], metavar="MEASURE", help=measure)
    add("--downscale", type=int, help=f"as for import_scene.py; default: to at most {LONGEST_SIDE} pixels")
    add("--resolution", type=int, default=256, help="grid samples along the mesh's shortest side")
    fewer = f"default: as many as fit into {MESH_MB} MB, or {TEXTURED_FACES} with --texture"
    needs = "needs pip install 'idr-surface[mesh]'"
    add("--faces", type=int, metavar="N", help=f"faces of the mesh; {fewer} ({needs})")
    add("--texture", type=int, metavar="SIZE", help="as for export_mesh.py; default: colors at vertices")
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
    from idr.importers.true_size.measures import parse_measure

    for name in arguments.despite:
        if name not in NAMES:
            raise InputError(f"--despite {name}: expected one of {', '.join(NAMES)}")
    source = arguments.source.expanduser().resolve()
    if not source.exists():
        raise MissingInputError(f"no folder {source}; expected photographs, or a scene to import")
    if not 0 < arguments.max_minutes < math.inf:
        raise InputError(f"--max_minutes {arguments.max_minutes:g}: expected a number of minutes above 0")
    check_at_least(arguments, nepoch=1, downscale=1, resolution=2, frames=3, faces=4, hold_out=0)
    if arguments.hold_out is not None and any(k.startswith("dataset.holdout") for k in arguments.overrides):
        raise InputError("got both --hold_out and --set dataset.holdout; expected one of them")
    check_texture(arguments.texture)
    check_mesh_packages(arguments.faces, arguments.texture)
    check_masks(arguments)
    for text in arguments.scale_by:
        parse_measure(text)  # refuses mistakes before the first step
    default = project_root() / "evals" / "photos" / (source.stem if source.is_file() else source.name)
    out = arguments.out.expanduser().resolve() if arguments.out else default
    if out == source or source in out.parents:
        raise InputError(f"--out {out} lies in {source}; expected a folder outside the photographs")
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
        from idr.importers.masks.editing import mask_edits

        arguments = self.arguments
        self._check_out()
        if arguments.from_step:
            self.journal.forget_from(arguments.from_step)
        imported: list[Any] = [str(self.source), files_state(self.source)]
        passed_on = filter(None, [self._passed_on(), self._measures()])
        imported += [arguments.masks, arguments.downscale, *passed_on]
        if arguments.masks and Path(arguments.masks).expanduser().is_dir():
            imported.append(files_state(Path(arguments.masks).expanduser()))
        self._step("import", imported, [self.scan / "cameras.npz"], self._import)
        checked = [*sorted(arguments.despite), *mask_edits(self.scan)]
        self._step("doctor", checked, [], self._doctor)
        conf = load_conf(arguments.conf, arguments.overrides).as_plain_ordered_dict()
        held_out = held_out_images(self.scan, arguments.hold_out, conf)
        # With more minutes the same run continues; another conf, scene or number of epochs begins a new run.
        inputs = [conf, arguments.nepoch, *filter(None, [held_out])]
        suffix = "_" + fingerprint(*inputs, self.results)[:8]
        anew = arguments.from_step is not None and STEPS.index(arguments.from_step) <= STEPS.index("train")
        minutes, spent = training_minutes(self.journal, arguments.max_minutes)
        training = PhotoTraining(arguments, self.scan, self.out, suffix, minutes, held_out, anew, spent)
        inputs.append(arguments.max_minutes)
        trial = self._step(SPEED_TRIAL, inputs, [], training.choose_epochs)
        trained = self._step("train", suffix, [], lambda: training.train(trial))
        self.run_flags = [*training.flags(), "--timestamp", trained["timestamp"], "--expname", suffix]
        shape = [arguments.resolution, arguments.faces, arguments.texture]
        self._step("mesh", shape, [self.mesh], self._mesh)
        self._step("report", [], [self.report], self._report)
        say(f"\nmesh: {self.mesh}\nreport: {self.report}\ncheckpoint: {trained['checkpoint']}")

    def _check_out(self) -> None:
        """Checks that the results replace neither those of another source nor files of the user."""
        from idr.datasets.record import recorded_source

        found = recorded_source(self.scan)
        if self.arguments.out is None and found is not None and found != str(self.source):
            raise InputError(f"{self.out} has the results of {found}; choose another folder with --out")
        for path in (self.mesh, self.report):
            if path.exists() and not self.journal.folder.is_dir():
                raise InputError(
                    f"{path} exists and was not written by this command: choose another --out, or move it "
                    "away"
                )

    def _passed_on(self) -> list[str]:
        """Returns the flags for import_scene.py that are passed on."""
        given = {name: getattr(self.arguments, name) for name in PASSED_ON}
        words = [f"--{name}" for name, value in given.items() if value is True]
        valued = {name: value for name, value in given.items() if not isinstance(value, bool | None)}
        words += [word for name, value in valued.items() for word in (f"--{name}", str(value))]
        return words + [word for text in self.arguments.scale_by for word in ("--scale_by", text)]

    def _measures(self) -> list[str]:
        """Returns what the known lengths say, with the content of files of points."""
        from idr.importers.true_size.measures import parse_measure

        return [str(parse_measure(text)) for text in self.arguments.scale_by]

    def _step(
        self, step: str, inputs: Any, outputs: list[Path], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Runs a step unless it was done with the same inputs, including those of all earlier steps."""
        digest = fingerprint(step, inputs, self.results)
        result = self.journal.result(step, digest, outputs)
        if result is None:
            say(f"\n== {step}")
            began = time.monotonic()
            try:
                result = work()
            except StoppedError as stop:
                if stop.status == EXIT_INTERRUPTED:
                    self.journal.give_up(step, digest, (time.monotonic() - began) / 60)
                raise
            minutes = (time.monotonic() - began) / 60 + self.journal.minutes_before(step, digest)
            self.journal.finish(step, digest, result, minutes)
        else:
            say(f"== {step}: done already")
        self.results.append([digest, result])
        return result

    def _import(self) -> dict[str, Any]:
        from idr.cli import import_scene

        for path in self.scan.parent.glob(f".{self.scan.name}.*"):
            if path.suffix in (".tmp", ".old"):  # of killed imports
                shutil.rmtree(path)
        longest, has_masks = self._inspect()
        downscale = self.arguments.downscale or max(1, -(-longest // LONGEST_SIDE))
        argv = [str(self.source), "--out", str(self.scan), "--downscale", str(downscale), *self._passed_on()]
        masks = self.arguments.masks or (None if has_masks else "auto")
        argv += ["--masks", masks] if masks else []
        argv += ["--force"] if self.scan.exists() else []
        require_success("import", import_scene.main(argv), "import-failed: see the message above")
        return {"downscale": downscale, "masks": masks}

    def _inspect(self) -> tuple[int, bool]:
        """Returns the longest side of the first photograph, pixels, and whether the importer finds masks."""
        from idr.datasets.image_files import read_header
        from idr.importers.masks.sources import has_masks
        from idr.importers.photographs.source import checked_photographs, find_video
        from idr.importers.photographs.video import frame_size
        from idr.importers.recognize import read_source, recognize

        images = Path(self.arguments.images).expanduser() if self.arguments.images else None
        kind = self.arguments.kind or recognize(self.source, images)
        if kind == PHOTOGRAPHS:  # whose masks the importer finds or makes
            folder = images or self.source
            video = find_video(folder)
            size = frame_size(video) if video else read_header(checked_photographs(folder)[0]).size
            return max(size), True
        source = read_source(self.source, kind, images)
        given = self.arguments
        masks = bool(given.masks or given.mask_command or given.make_missing_masks) or has_masks(source)
        return max(read_header(source.views[0].image).size), masks

    def _doctor(self) -> dict[str, Any]:
        from idr.cli.doctor import say_findings
        from idr.preprocess.scene_check import diagnose_scene
        from idr.preprocess.scene_views import EXACT_CAMERAS

        findings = diagnose_scene(self.scan, EXACT_CAMERAS)
        severe = say_findings(findings)
        stopping = [name for name in dict.fromkeys(severe) if name not in self.arguments.despite]
        if stopping:
            despite = " ".join(f"--despite {name}" for name in stopping)
            masks = self.scan / "masks.png"
            reason = f"{', '.join(stopping)}: fix it as described above (see {masks}), or add {despite}"
            raise StoppedError("doctor", reason)
        return {"findings": [finding.name for finding in findings]}

    def _mesh(self) -> dict[str, Any]:
        from idr.cli import export_mesh

        colors = "views"
        if importlib.util.find_spec("embreex") is None:
            colors = "normal"
            say("colors are seen along normals: colors from the views need pip install 'idr-surface[mesh]'")
        argv = [*self.run_flags, "--out", str(self.mesh), "--force", "--colors", colors]
        argv += ["--resolution", str(self.arguments.resolution), *self._size_flags()]
        status = export_mesh.main(argv)
        remedy = "if there is no surface yet, train longer (--max_minutes) or check the masks"
        require_success("mesh", status, f"mesh-failed: see the message above; {remedy}")
        return {}

    def _size_flags(self) -> list[str]:
        """Returns the flags of export_mesh.py for the number of faces and the texture."""
        faces, texture = self.arguments.faces, self.arguments.texture
        argv = [] if texture is None else ["--texture", str(texture)]
        if faces is None and importlib.util.find_spec("fast_simplification") is None:
            say("the mesh keeps all faces: a smaller file needs pip install 'idr-surface[mesh]'")
            return argv
        if faces is None and texture is None:
            return ["--max_mb", str(MESH_MB)]
        return [*argv, "--faces", str(faces or TEXTURED_FACES)]

    def _report(self) -> dict[str, Any]:
        from idr.cli import report

        status = report.main([*self.run_flags, "--out", str(self.report), "--title", title_of(self.source)])
        require_success("report", status, "report-failed: see the message above")
        return {}


if __name__ == "__main__":
    raise SystemExit(main())
