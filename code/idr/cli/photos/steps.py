"""How a chain of commands ends at one of its steps."""

from __future__ import annotations

from idr.cli.shared.common import EXIT_INTERRUPTED, EXIT_STOPPED


class StoppedError(Exception):
    """A step ended the chain.

    Args:
        step: The step.
        reason: The reason's name, and what to do.
        status: Exit status.
    """

    def __init__(self, step: str, reason: str, status: int = EXIT_STOPPED) -> None:
        super().__init__(f"stopped at {step}: {reason}")
        self.status = status


def require_success(step: str, status: int, reason: str) -> None:
    """Ends the chain unless a command of it ended well.

    Args:
        step: The step that called the command.
        status: Its exit status.
        reason: Why the chain ends where it was no signal: a name, and what to do.

    Raises:
        StoppedError: The status is not 0; its own is that of an interruption, or 1.
    """
    if status == EXIT_INTERRUPTED:
        raise StoppedError(step, "interrupted: what was whole is kept", EXIT_INTERRUPTED)
    if status:
        raise StoppedError(step, reason)
