"""The commands of ``idr``, and how to call each in the way in which this process was called."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Command:
    """A command: ``idr <name>``.

    Attributes:
        name: The subcommand.
        module: Its module below ``idr.cli``, which has ``build_parser`` and ``main``.
        former: Name of the entry point that it had of its own, without ``idr-``; empty without one.
        script: The published way to call it, below ``code/``; empty without one.
        help: One line.
    """

    name: str
    module: str
    former: str
    script: str
    help: str

    def load(self) -> ModuleType:
        """Imports the module."""
        return importlib.import_module(f"idr.cli.{self.module}")


GROUPS: dict[str, tuple[Command, ...]] = {
    "reconstruct": (
        Command("photos", "photos.command", "photos", "preprocess/photos.py",
                "from photographs to a colored mesh and a report, in six steps"),
        Command("train", "train", "train", "training/exp_runner.py",
                "train geometry and appearance of a scene, and its cameras on request"),
        Command("run-scenes", "run_scenes", "run-scenes", "training/run_scenes.py",
                "train a list of scenes"),
        Command("demo", "demo.command", "demo", "",
                "reconstruct the built-in scene, with a table of scores"),
    ),
    "look": (
        Command("view", "view", "view", "viewer/serve.py",
                "show a run in a browser, also during training"),
        Command("report", "report", "report", "evaluation/report.py",
                "write a page about a run: curves, renderings, error maps, surface"),
        Command("render-path", "render_path", "render-path", "evaluation/render_path.py",
                "render a camera path: images and films"),
        Command("disentangle", "disentanglement", "eval-disentanglement",
                "evaluation/eval_disentanglement.py",
                "render the geometry of one run with the appearance of another"),
        Command("export-mesh", "export_mesh", "export-mesh", "evaluation/export_mesh.py",
                "write the surface as a colored PLY, OBJ or GLB"),
        Command("export-cameras", "export_cameras", "export-cameras", "evaluation/export_cameras.py",
                "write cameras for nerfstudio, COLMAP and others"),
    ),
    "measure": (
        Command("eval", "evaluate", "eval", "evaluation/eval.py",
                "mesh a run; score its renderings and its cameras"),
        Command("eval-mesh", "eval_mesh", "eval-mesh", "evaluation/eval_mesh.py",
                "score a mesh against a reference or a DTU scan"),
        Command("summary", "summary", "summary", "evaluation/summary.py",
                "collect the scores of all scans in one table"),
    ),
    "scenes": (
        Command("import", "import_scene", "import", "preprocess/import_scene.py",
                "import photographs, or a scene of COLMAP, nerfstudio, Blender and others"),
        Command("board", "photos.board", "", "preprocess/board.py",
                "write the board that gives photographs their true size, to print"),
        Command("masks", "masks.command", "", "preprocess/masks.py",
                "mend the masks of an imported scene, by strokes on a page"),
        Command("doctor", "doctor", "doctor", "preprocess/doctor.py",
                "name what is wrong with a scene"),
        Command("check", "check_scene", "check-scene", "preprocess/check_scene.py",
                "draw bounding sphere, visual hull and masks over the photographs"),
        Command("preprocess-cameras", "preprocess_cameras", "preprocess-cameras",
                "preprocess/preprocess_cameras.py",
                "fit the bounding sphere and write it into the camera file"),
        Command("triangulate-points", "triangulate_points", "triangulate-points",
                "preprocess/triangulate_points.py",
                "triangulate sparse points of the surface"),
        Command("demo-scene", "demo.make_scene", "make-demo-scene", "preprocess/make_demo_scene.py",
                "write the built-in scene"),
        Command("photo-scene", "demo.make_photo_scene", "make-photo-scene", "preprocess/make_photo_scene.py",
                "render realistic photographs of the built-in scene"),
    ),
}  # fmt: skip
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}
_WORD = re.compile(r"(?!(true|yes|on|false|no|off|null)$)[a-z]\w*", re.IGNORECASE | re.ASCII)
"""Texts that HOCON reads as texts without quotes."""
_SCRIPTS = {Path(command.script).name for command in COMMANDS.values() if command.script}


def call_of(name: str) -> list[str]:
    """Returns the words that call a command, in the form in which this process was called.

    That is a script (``python training/exp_runner.py``), a module (``python -m idr.cli.train``) or
    ``idr train``, which is also the answer to callers of the library.
    """
    command, module = COMMANDS[name], _main_module()
    if module is not None and module.startswith("idr.cli."):
        return ["python", "-m", f"idr.cli.{command.module}"]
    if module == "idr.__main__":
        return ["python", "-m", "idr", name]
    if script_called() and command.script:
        script = Path(sys.argv[0])
        if script.name == Path(command.script).name:
            return ["python", str(script)]
        return ["python", os.path.normpath(script.parent / ".." / command.script)]
    return ["idr", name]


def _main_module() -> str | None:
    """Returns the module of ``python -m``, or None."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else str(spec.name)


def script_called() -> bool:
    """Whether this process runs one of the scripts below ``code/``."""
    return _main_module() is None and Path(sys.argv[0]).name in _SCRIPTS


def command_line(name: str, *words: object) -> str:
    """Returns a call of a command with these arguments, quoted for a shell; see `call_of`."""
    return shlex.join([*call_of(name), *map(str, words)])


def conf_text(value: object) -> str:
    """Returns a value as one writes it in a conf: a word without quotes."""
    from idr.conf.files import value_text

    is_word = isinstance(value, str) and _WORD.fullmatch(value)
    return str(value) if is_word else value_text(value, str(value))


def scene_flags(folder: Path, **keys: object) -> list[str]:
    """Returns the flags with which training reads the scene ``<data root>/<data_dir>/scan<N>``.

    The keywords are further keys of the block ``dataset``.
    """
    from idr.conf.files import project_root

    flags = ["--scan_id", folder.name.removeprefix("scan")]
    for key, value in {"data_dir": folder.parent.name, **keys}.items():
        flags += ["--set", f"dataset.{key}={conf_text(value)}"]
    root = folder.parent.parent
    return flags if root == project_root() / "data" else [*flags, "--data_root", str(root)]
