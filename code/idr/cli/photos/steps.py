"""Errors that end a chain of commands at one of its steps."""

from __future__ import annotations

from idr.cli.shared.common import EXIT_INTERRUPTED, EXIT_STOPPED


class StoppedError(Exception):
    """A step ended the chain.

    Args:
        step: The step.
        reason: Name of the reason, and the remedy.
        status: Exit status.
    """

    def __init__(self, step: str, reason: str, status: int = EXIT_STOPPED) -> None:
        super().__init__(f"stopped at {step}: {reason}")
        self.status = status


def require_success(step: str, status: int, reason: str) -> None:
    """Ends the chain unless a command succeeded.

    Args:
        step: The step that called the command.
        status: Exit status of the command.
        reason: Name of the reason and the remedy, unless the command was interrupted.

    Raises:
        StoppedError: The status is not 0.
    """
    if status == EXIT_INTERRUPTED:
        raise StoppedError(step, "interrupted: finished steps are kept", EXIT_INTERRUPTED)
    if status:
        raise StoppedError(step, reason)
