"""Standard output that fails or lacks characters, names that control terminals, and errors of the system."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idr.cli.shared.common import LARGEST, _PlainLines, make_parser, run, run_command
from idr.errors import printable

CODE = Path(__file__).resolve().parents[3] / "code"
HOSTILE = "a\x1b[31m\rb\u202ec\x9bd\udce9e\x7f"
ESCAPED = "a\\x1b[31m\\rb\\u202ec\\x9bd\\udce9e\\x7f"
COMMAND = """
    import sys
    from pathlib import Path
    from idr.cli.shared.common import log, make_parser, run_command, say

    def body(arguments):
        for k in range(20_000):
            say(f"line {k} of K\u00f6ln/\u5929\u6d25/caf\udce9\x1b[31m")
        Path(arguments.out).write_text("done")
        log.warning("wrote \u5929\u6d25")

    parser = make_parser("A command.")
    parser.add_argument("out")
    raise SystemExit(run_command(parser, sys.argv[1:], body, listing="listing" in sys.argv[1]))
"""


def start(out: Path, stdout: int, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a command that prints much and then writes a file."""
    variables = {**os.environ, "PYTHONPATH": str(CODE), **environment}
    source = textwrap.dedent(COMMAND.replace("\udce9", "\\udce9"))
    command = [sys.executable, "-c", source, str(out), *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=variables)


@pytest.mark.parametrize("name, status", [("work", 0), ("listing", 141)])
def test_reader_that_has_gone(tmp_path, name, status):
    process = start(tmp_path / name, subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline().startswith(b"line 0 of ")
    process.stdout.close()
    _, messages = process.communicate()
    assert process.returncode == status
    assert (tmp_path / name).read_text() == "done"
    assert messages.decode() == "warning: wrote \u5929\u6d25\n"


@pytest.mark.parametrize("name, status", [("work", 0), ("listing", 2)])
def test_full_disk(tmp_path, name, status):
    with open("/dev/full", "wb") as full:
        process = start(tmp_path / name, full.fileno())
        _, messages = process.communicate()
    assert process.returncode == status and (tmp_path / name).read_text() == "done"
    error = "error: cannot write the standard output: no space left on device; free space there, or write to "
    assert (error in messages.decode()) == (status == 2) and b"Traceback" not in messages


def test_help_into_a_pipe_without_reader(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(tmp_path / "work", writer, "-h")
    os.close(writer)
    assert process.communicate()[1] == b"" and process.returncode == 141


@pytest.mark.parametrize(
    "encoding, line",
    [
        ("ascii", b"line 0 of K\\xf6ln/\\u5929\\u6d25/caf\\udce9\\x1b[31m"),
        ("latin-1", b"line 0 of K\xf6ln/\\u5929\\u6d25/caf\\udce9\\x1b[31m"),
        ("utf-8", "line 0 of K\u00f6ln/\u5929\u6d25/caf\\udce9\\x1b[31m".encode()),
    ],
)
def test_encoding_that_lacks_characters(tmp_path, encoding, line):
    process = start(tmp_path / "work", subprocess.PIPE, PYTHONIOENCODING=encoding)
    output, _ = process.communicate()
    assert process.returncode == 0 and output.splitlines()[0] == line


# ---- names


def test_control_characters_are_escaped():
    assert printable(HOSTILE) == ESCAPED
    assert printable("a\tb\nc\u2028") == "a\\tb\\nc\\u2028"
    assert printable("a\tb\nc\x1b", lines=True) == "a\tb\nc\\x1b"
    for name in ("caf\u00e9 \u5929\u6d25.png", "\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e"):
        assert printable(name) == name


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(codec=None)))
def test_printable_text_controls_nothing(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert printable(shown) == shown


def test_messages_and_log_are_escaped(capsys):
    def fail() -> int:
        raise FileNotFoundError(2, "No such file or directory", f"{HOSTILE}\nerror: x")

    assert run(fail) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {ESCAPED}\\nerror: x: no such file or directory; ")
    assert error.count("\n") == 1
    record = logging.LogRecord("idr", logging.WARNING, "", 0, "no %s", (HOSTILE + "\n",), None)
    assert _PlainLines().format(record) == f"warning: no {ESCAPED}\\n"
    with pytest.raises(SystemExit, match="2"):
        make_parser("A command.").parse_args([f"--{HOSTILE}"])
    assert f"unrecognized arguments: --{ESCAPED}" in capsys.readouterr().err


# ---- what the system refuses


def refused(capsys: pytest.CaptureFixture[str], function) -> str:
    assert run(function) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_names_that_the_system_refuses(tmp_path, capsys, monkeypatch):
    long = tmp_path / ("x" * 300)
    assert f"{long}: file name too long; choose a shorter name" in refused(capsys, lambda: long.stat() and 0)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    error = refused(capsys, lambda: (tmp_path / "loop").open() and 0)
    assert "loop: too many levels of symbolic links; its links lead to each other" in error
    error = refused(capsys, lambda: Path("~nosuchuser/x").expanduser() and 0)
    assert "no home folder of the user after ~; write the path out" in error
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert run_command(make_parser("A command."), [], lambda _: 0) == 2
    assert "error: the working folder was removed; change to one that exists" in capsys.readouterr().err


def test_other_failures_keep_their_traceback():
    for failure in (OSError("no name"), RuntimeError("a bug"), KeyError("a bug")):
        with pytest.raises(type(failure)):
            run(lambda error=failure: (_ for _ in ()).throw(error))


def test_memory_of_the_cpu(capsys):
    import torch

    assert run(lambda: torch.empty(2**60, dtype=torch.uint8) and 0) == 1
    assert "stopped: out-of-memory: no memory left; lower train.num_pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--threads", "100000"], f"--threads 100000: expected at most {LARGEST['threads']:,}"),
        (["--batch_size", "10000000"], "--batch_size 10000000: expected at most 1,000,000"),
        (["--img_res", "10", "99999999"], "--img_res 99999999: expected at most 32,768"),
    ],
)
def test_flags_beyond_reason(words, message, capsys):
    parser = make_parser("A command.")
    for name, number in (("--threads", None), ("--batch_size", None), ("--img_res", 2)):
        parser.add_argument(name, type=int, nargs=number)
    assert run_command(parser, words, lambda _: pytest.fail("called")) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    accepted = ["--threads", str(os.cpu_count()), "--batch_size", "64", "--img_res", "1200", "1600"]
    assert run_command(parser, accepted, lambda arguments: arguments.batch_size) == 64


@pytest.mark.parametrize("text", ["1" + "0" * 30, "nan", "inf", "-inf"])
def test_numbers_that_nothing_holds(text, capsys):
    parser = make_parser("A command.")
    parser.add_argument("--n", type=int if text.isdigit() else float)
    with pytest.raises(SystemExit, match="2"):
        run_command(parser, [f"--n={text}"], lambda arguments: argparse.Namespace())
    assert f"argument --n: {text}: expected " in capsys.readouterr().err


@pytest.mark.parametrize("given, used", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(monkeypatch, given, used):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    found = []
    status = run_command(make_parser("A command."), [], lambda _: found.append(os.environ["OMP_WAIT_POLICY"]))
    assert status == 0 and found == [used]
