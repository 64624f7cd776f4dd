"""``idr``: one command for all; ``idr`` alone lists the subcommands.

A subcommand's module is imported when it is chosen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from idr.cli.shared.commands import COMMANDS, GROUPS, call_of
from idr.cli.shared.common import HelpFormatter, Parser, add_version, run, run_command, say
from idr.errors import InputError

DESCRIPTION = "Reconstructs surface, appearance and cameras from masked photographs of one object."
SHELLS = ("bash", "zsh", "tcsh")
FILES = ("conf", "data_root", "exps_folder", "mesh", "out", "reference", "run", "source", "source_dir")
"""Arguments that name files or folders, besides those of type Path."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the subcommand that `argv`, None for the process's arguments, begins with; returns its status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in COMMANDS:
        return int(COMMANDS[words[0]].load().main(words[1:]))
    if words and not words[0].startswith("-"):
        return run(lambda: _refuse(words[0]))
    return run_command(_parser(), words, _answer, listing=True)


def former_main(argv: Sequence[str] | None = None) -> int:
    """Runs the subcommand of a former entry point such as ``idr-train``, with a note on standard error."""
    former = Path(sys.argv[0]).name
    command = next(c for c in COMMANDS.values() if former == f"idr-{c.former}")
    print(f"{former} will go away: use idr {command.name}", file=sys.stderr, flush=True)  # noqa: T201
    return int(command.load().main(argv))


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    program = " ".join(call_of("train")[:-1])
    lists = (
        "\n".join([f"{title}:", *(f"  {c.name:{width}}  {c.help}" for c in commands)])
        for title, commands in GROUPS.items()
    )
    parser = Parser(
        prog=program, usage="%(prog)s COMMAND [options]", description=DESCRIPTION, allow_abbrev=False,
        epilog="\n\n".join([*lists, f"`{program} COMMAND -h` lists the options of a command."]),
        formatter_class=HelpFormatter,
    )  # fmt: skip
    _add_options(parser)
    parser.set_defaults(quiet=False, verbose=False)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_version(parser)
    text = f"print the completion of commands and flags for a shell: {', '.join(SHELLS)}"
    parser.add_argument("--print-completion", choices=SHELLS, metavar="SHELL", help=text)


def _answer(arguments: argparse.Namespace) -> None:
    """Prints the list of commands, or a shell's completion."""
    say(_completion(arguments.print_completion) if arguments.print_completion else _parser().format_help())


def _refuse(name: str) -> None:
    from idr.conf.blocks import did_you_mean

    former = {c.former: c.name for c in COMMANDS.values() if c.former}
    hint = f" (did you mean {former[name]}?)" if name in former else did_you_mean(name, COMMANDS)
    raise InputError(f"no command `{name}`{hint}; {_parser().prog} -h lists all")


def _completion(shell: str) -> str:
    """Returns a shell's completion of all commands and their flags."""
    import shtab

    parser = argparse.ArgumentParser("idr", description=DESCRIPTION)
    _add_options(parser)
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        own = command.load().build_parser()
        for action in own._actions:
            if action.dest in FILES or action.type is Path:
                action.complete = shtab.FILE
        commands.add_parser(name, parents=[own], add_help=False, help=command.help)
    return str(shtab.complete(parser, shell))


if __name__ == "__main__":
    raise SystemExit(main())
