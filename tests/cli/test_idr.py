"""The command ``idr``: its list, its forms, its log levels, its completion."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from idr.__main__ import SHELLS, former_main, main
from idr.cli.shared.commands import COMMANDS, command_line
from idr.cli.shared.common import make_parser, run_command, say

CODE = Path(__file__).parents[2] / "code"
HEAVY = ("torch", "numpy", "scipy", "pyhocon", "imageio", "cv2", "trimesh", "plotly", "tqdm", "shtab")


def python(*words: str, cwd: Path = CODE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CODE), "COLUMNS": "100"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_idr_alone_lists_the_commands_without_loading_them() -> None:
    done = python("-X", "importtime", "-m", "idr")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", done.stdout, re.MULTILINE), name
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "idr.cli.shared.commands" in modules and "idr.cli.train" not in modules
    assert {module.partition(".")[0] for module in modules}.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("trian", "train"), ("exportmesh", "export-mesh"), ("check-scene", "check"),
     ("eval-disentanglement", "disentangle"), ("render_path", "render-path"),
     ("make-demo-scene", "demo-scene")],
)  # fmt: skip
def test_a_mistyped_command_is_refused(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed, "--conf", "x.conf"]) == 2
    printed = capsys.readouterr()
    message = f"error: no command `{typed}` (did you mean {meant}?); idr -h lists all\n"
    assert (printed.out, printed.err) == ("", message)


def test_a_command_gets_the_rest_of_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", str(tmp_path / "no such scene")]) == 2
    assert f"no scene folder {tmp_path / 'no such scene'}" in capsys.readouterr().err


def test_every_command_says_its_line_and_is_called_by_its_script() -> None:
    for command in COMMANDS.values():
        module = CODE / "idr" / "cli" / f"{command.module.replace('.', '/')}.py"
        assert module.is_file() and len(command.help) < 80
        if command.script:
            assert f"from idr.cli.{command.module} import main" in (CODE / command.script).read_text()


@pytest.mark.parametrize(
    ("words", "folder", "shown"),
    [
        (["training/exp_runner.py"], ".", "python training/exp_runner.py"),
        (["code/training/exp_runner.py"], "..", "python code/training/exp_runner.py"),
        (["-m", "idr.cli.train"], ".", "python -m idr.cli.train"),
        (["-m", "idr", "train"], ".", "python -m idr train"),
    ],
)
def test_help_is_in_the_form_of_the_call(words: list[str], folder: str, shown: str) -> None:
    done = python(*words, "-h", cwd=CODE / folder)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {shown} [-h]")
    examples = done.stdout.partition("examples:\n")[2].splitlines()
    assert len(examples) == 3 and all(line.startswith(f"  {shown} --conf ./confs/") for line in examples)


@pytest.mark.parametrize(
    ("argv0", "shown"),
    [
        ("training/exp_runner.py", "python evaluation/eval.py"),
        ("code/preprocess/import_scene.py", "python code/evaluation/eval.py"),
        ("report.py", "python ../evaluation/eval.py"),
        ("/usr/bin/idr", "idr eval"),
        ("/usr/bin/idr-train", "idr eval"),
    ],
)
def test_printed_commands_are_in_the_form_of_the_call(
    argv0: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", [argv0])
    line = command_line("eval", "--conf", "a b's.conf", "--scan_id", 3)
    assert line == f"{shown} --conf 'a b'\"'\"'s.conf' --scan_id 3"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_parsed(name: str) -> None:
    parser = COMMANDS[name].load().build_parser()
    lines = (parser.epilog or "").replace("\\\n", " ").splitlines()
    for line in (line for line in lines if line.startswith("  %(prog)s")):
        assert ".." not in line  # paths as seen from the project's folder
        parser.parse_args(shlex.split(line)[1:])
    assert name == "demo" or "%(prog)s" in (parser.epilog or "")


def test_a_former_entry_point_does_the_same_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/idr-check-scene", "--source_dir", "/no/scene"])
    assert former_main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    note, message = printed.err.splitlines()
    assert note == "idr-check-scene will go away: use idr check"
    assert message.startswith("error: no scene folder /no/scene")


@pytest.mark.parametrize(
    ("flags", "logged"),
    [([], ["info", "warning: warned"]), (["--quiet"], ["warning: warned"]),
     (["--verbose"], ["debug", "info", "warning: warned"])],
)  # fmt: skip
def test_levels_of_the_log(
    flags: list[str], logged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("idr.somewhere")
    before = logging.getLogger("idr").handlers[:]

    def body(arguments: object, inner: bool = True) -> int:
        if inner:  # a command within a command keeps the level of the outer one
            return run_command(make_parser("", command="eval"), [], lambda inside: body(inside, False))
        log.debug("debug"), log.info("info"), log.warning("warned")
        say("result")
        return 0

    assert run_command(make_parser("", command="train"), flags, body) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err.splitlines()) == ("result\n", logged)
    assert logging.getLogger("idr").handlers == before


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_names_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS) and "supersample" in text


def test_bash_completes_commands_flags_and_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--print-completion", "bash"])
    script = tmp_path / "idr.bash"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", str(script)], check=True)

    def completed(*words: str) -> list[str]:
        program = f"source {script}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); _shtab_idr"
        program += "; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, text=True)
        return done.stdout.split()

    assert completed("idr", "ex") == ["export-mesh", "export-cameras"]
    assert completed("idr", "train", "--is") == ["--is_continue"]
    assert completed("idr", "export-mesh", "--colors", "") == ["views", "normal", "none"]
