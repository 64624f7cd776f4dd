"""Random command lines end with status 0, 1 or 2 and without a traceback, before any work starts."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idr.cli import train
from idr.cli.photos import command as photos
from idr.many_scenes import scenes
from tests.cli.bad_input import CONF, SCENE, project_at, snapshot, write_scene
from tests.fuzz.damage import SECONDS, bounded, within

COMMANDS = (
    "check_scene", "demo.make_photo_scene", "demo.make_scene", "disentanglement", "doctor", "eval_mesh",
    "evaluate", "export_cameras", "export_mesh", "import_scene", "photos.command", "preprocess_cameras",
    "render_path", "report", "run_scenes", "summary", "train", "triangulate_points", "view",
)  # fmt: skip
NAMES = [
    "nowhere", "", ".", "/", "~nosuchuser", "x" * 300, "caf\udce9", "\x1b[1m", "a\nb", "-1", "/dev/null",
    "file/x", "tiny.conf", "scan3", "data/balls/scan3",
]  # fmt: skip
"""Paths and other words."""
NUMBERS = ["0", "1", "-1", "3", "0.5", "nan", "inf", "1e9", "9" * 12, "9" * 30, "x", "²", ""]
OVERRIDES = ["train.num_pixels=3", "train.x", "loss.alpha=[", "x=include \"y\"", "dataset.scan_id=x"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("project")
    (root / "tiny.conf").write_text(CONF)
    (root / "file").write_text("a file")
    write_scene(root / SCENE)
    with project_at(root) as patch:
        # What is done after all checks.
        patch.setattr(train.TrainingProcess, "open", lambda *_: None)
        patch.setattr(photos.Chain, "run", lambda _: None)
        patch.setattr(scenes.SceneQueue, "run", lambda _: False)
        yield root


def value_for(action: argparse.Action) -> st.SearchStrategy[str]:
    """Values of a flag: of its kind more often than of another."""
    if action.dest == "overrides":
        return st.sampled_from(OVERRIDES)
    words = NUMBERS if action.type in (int, float) else NAMES
    if action.choices:
        return st.sampled_from([*map(str, action.choices), *words[:2]])
    return st.one_of(st.sampled_from(words), st.sampled_from(words), st.sampled_from(NAMES + NUMBERS))


@st.composite
def command_lines(draw: st.DrawFn, parser: argparse.ArgumentParser) -> list[str]:
    """Up to five flags, the required ones among them, and positional arguments."""
    flags: list[Any] = [a for a in parser._actions if a.option_strings and a.dest not in ("help", "version")]
    chosen = [a for a in flags if a.required]
    chosen += draw(st.lists(st.sampled_from(flags), max_size=5 - len(chosen), unique_by=lambda a: a.dest))
    line: list[str] = []
    for action in [*chosen, *(a for a in parser._actions if not a.option_strings)]:
        line += action.option_strings[:1]
        counts = {None: 1, "?": draw(st.integers(0, 1)), "+": draw(st.integers(1, 3)), "*": 1}
        count = action.nargs if isinstance(action.nargs, int) else counts.get(action.nargs, 1)
        line += [draw(value_for(action)) for _ in range(count)]
    return line


@pytest.mark.parametrize("name", COMMANDS)
def test_random_command_lines(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"idr.cli.{name}")
    build = getattr(module, "build_parser", None) or module._parser

    @bounded(25)
    @given(line=command_lines(build()))
    def check(line: list[str]) -> None:
        before = snapshot(root)
        if name.startswith("demo."):
            line = [*line, "--out", "file"]  # valid lines would render a scene
        if name == "train":
            line = ["--conf", "tiny.conf", "--device", "cpu", "--gpu", "ignore", *line]
        capsys.readouterr()
        with within(SECONDS):
            try:
                status = module.main(line)
            except SystemExit as end:
                status = end.code
        error = capsys.readouterr().err
        assert status in (0, 1, 2) and "Traceback" not in error
        assert status != 2 or error.count("error: ") == 1, error
        if status == 2:
            assert snapshot(root) == before

    check()
