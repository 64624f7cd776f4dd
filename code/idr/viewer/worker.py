"""The one thread that computes, so that the page answers whatever is being computed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from idr.errors import USER_ERRORS

log = logging.getLogger(__name__)

Work = Callable[[], None]
"""What is to be computed and shown; calls `Worker.between` every now and then."""


class Superseded(Exception):
    """Raised inside a work whose result nobody waits for any more."""


@dataclass(frozen=True)
class _Request:
    slot: str
    urgency: int
    serial: int
    work: Work


class Worker:
    """Computes what is asked for, on a thread of its own.

    Requests come in slots, such as the surface or one browser's view. In each slot the newest wins: it
    replaces what waits there and ends what is computed for it. A more urgent slot does not wait for the
    others: it gets its turn in between two steps of theirs, on the same thread, and nothing done is lost.

    Args:
        on_failure: Called on the thread with the slot and one sentence where a work fails.
        on_change: Called on the thread whenever what is computed changes, with the slots under way,
            outermost first.
    """

    def __init__(
        self,
        on_failure: Callable[[str, str], None],
        on_change: Callable[[tuple[str, ...]], None] = lambda slots: None,
    ) -> None:
        self._on_failure = on_failure
        self._on_change = on_change
        self._changed = threading.Condition()
        self._waiting: dict[str, _Request] = {}
        self._newest: dict[str, int] = {}
        self._under_way: list[_Request] = []  # touched by the thread alone
        self._serial = 0
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="viewer-worker", daemon=True)
        self._thread.start()

    def submit(self, slot: str, work: Work, urgency: int = 0) -> None:
        """Asks for something; returns at once.

        Args:
            slot: What it replaces.
            work: What to do.
            urgency: The larger comes first.
        """
        with self._changed:
            self._serial += 1
            self._newest[slot] = self._serial
            self._waiting[slot] = _Request(slot, urgency, self._serial, work)
            self._changed.notify_all()

    def drop(self, slot: str) -> None:
        """Takes back what a slot asked for, and ends it if it is under way."""
        with self._changed:
            self._serial += 1
            self._newest[slot] = self._serial
            self._waiting.pop(slot, None)

    def between(self) -> None:
        """Lets the worker in between two steps; to be called by a work, on the worker's thread.

        Raises:
            Superseded: The work's result is not wanted any more.
        """
        current = self._under_way[-1]
        while True:
            with self._changed:
                if self._closing or self._newest[current.slot] != current.serial:
                    raise Superseded
                request = self._take(above=current.urgency)
            if request is None:
                return
            self._run(request)

    def close(self, seconds: float = 5.0) -> None:
        """Ends what is computed at its next step, and the thread.

        Args:
            seconds: To wait for the thread at most.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _take(self, above: int | None = None) -> _Request | None:
        """Takes the most urgent request that waits, of equal ones the oldest; the lock is held."""
        chosen = min(self._waiting.values(), key=lambda r: (-r.urgency, r.serial), default=None)
        if chosen is None or (above is not None and chosen.urgency <= above):
            return None
        return self._waiting.pop(chosen.slot)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._closing and not self._waiting:
                    self._changed.wait()
                if self._closing:
                    return
                request = self._take()
            assert request is not None
            self._run(request)

    def _run(self, request: _Request) -> None:
        self._under_way.append(request)
        self._tell_change()
        try:
            request.work()
        except Superseded:
            pass
        except USER_ERRORS as error:
            self._on_failure(request.slot, str(error))
        except MemoryError:
            self._on_failure(request.slot, "no memory left; choose a lower resolution")
        except Exception:
            log.exception("the viewer failed at %s", request.slot)
            self._on_failure(request.slot, "a fault of the viewer; the terminal shows where")
        finally:
            self._under_way.pop()
            self._tell_change()

    def _tell_change(self) -> None:
        self._on_change(tuple(request.slot for request in self._under_way))


class Interruptible:
    """A network that lets the worker in before each of its evaluations; otherwise as it is.

    Args:
        network: A model of the house's seam, or one of its networks.
        between: `Worker.between`.
    """

    _NETWORKS = ("implicit_network", "rendering_network")
    _METHODS = ("sdf", "gradient")

    def __init__(self, network: Any, between: Callable[[], None]) -> None:
        self._network = network
        self._between = between

    def __call__(self, *inputs: Any) -> Any:
        """Evaluates it."""
        self._between()
        return self._network(*inputs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._network, name)
        if name in self._NETWORKS:
            return Interruptible(value, self._between)
        return Interruptible(value, self._between) if name in self._METHODS else value
