"""Bars on a terminal, log lines elsewhere, nothing without a command or in another thread."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from typing import Any

import pytest

from idr import progress_bar
from idr.cli.shared.common import make_parser, run_command, say
from idr.errors import InputError
from idr.progress_bar import with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Puts standard output and error into one terminal."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys, "stdout", shown)
    return shown


def loop(arguments: Any) -> None:
    for number in with_progress(iter("abc"), "letters", 3):
        if number == "b":
            logging.getLogger("idr.x").info("a line")
            say("a result")


def command(*flags: str) -> None:
    assert run_command(make_parser("", command="eval"), flags, loop) == 0


def test_a_terminal_gets_a_bar_and_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    command()
    shown = terminal.getvalue()
    assert re.search(r"letters:.*\| 0/3", shown)
    assert "\ra line\n" in shown and "\ra result\n" in shown  # each begins where the bar was wiped off
    assert shown.endswith("\r") and not re.search(r"letters[^\r\n]*\n", shown)  # nothing is left of the bar


@pytest.mark.parametrize("flags", [["--quiet"], []])
def test_no_bar_without_a_terminal_or_when_quiet(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal(monkeypatch)
    if not flags:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    command(*flags)
    assert terminal.getvalue() == "a result\n"


def test_no_bar_in_the_library_nor_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert list(with_progress([1, 2], "numbers")) == [1, 2]
    with progress_bar.bars_shown(True):
        thread = threading.Thread(target=lambda: list(with_progress([1, 2], "numbers")))
        thread.start()
        thread.join()
    assert terminal.getvalue() == ""


def test_log_lines_come_with_the_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 1000, 10))  # 10 s for each item
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, logger="idr"):
        assert list(with_progress(range(5), "views")) == [0, 1, 2, 3, 4]
    assert caplog.messages == ["views: 2 of 5, 30 s left", "views: 4 of 5, 10 s left", "views: done in 60 s"]


def test_a_mistake_within_a_loop_leaves_no_bar_before_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(arguments: Any) -> None:
        for _ in with_progress(range(3), "outer"):
            for _ in with_progress(range(3), "inner"):
                raise InputError("a mistake")

    terminal = open_terminal(monkeypatch)
    assert run_command(make_parser("", command="eval"), [], mistaken) == 2
    assert re.search(r"\r *\rerror: a mistake\n$", terminal.getvalue())
