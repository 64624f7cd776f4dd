"""The single thread that computes, so that the page stays responsive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from idr.errors import USER_ERRORS

log = logging.getLogger(__name__)

Work = Callable[[], None]
"""Computes and shows something; calls `Worker.between` regularly."""


class Superseded(Exception):
    """Raised inside work whose result is no longer needed."""


@dataclass(frozen=True)
class _Request:
    slot: str
    urgency: int
    serial: int
    work: Work


class Worker:
    """Executes requests on a thread of its own.

    Requests belong to slots, such as the surface or one browser's view. A new request replaces the waiting
    one of its slot and cancels the running one. A more urgent request interrupts the running one at its next
    call of `between` and runs nested on the same thread, so no work is lost.

    Args:
        on_failure: Called on the thread with the slot and a sentence when work fails.
        on_change: Called on the thread with the running slots, outermost first, whenever they change.
    """

    def __init__(
        self, on_failure: Callable[[str, str], None], on_change: Callable[[tuple[str, ...]], None]
    ) -> None:
        self._on_failure = on_failure
        self._on_change = on_change
        self._changed = threading.Condition()
        self._waiting: dict[str, _Request] = {}
        self._newest: dict[str, int] = {}
        self._running: list[_Request] = []  # touched by the thread alone
        self._serial = 0
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="viewer-worker", daemon=True)
        self._thread.start()

    def submit(self, slot: str, work: Work, urgency: int = 0) -> None:
        """Adds a request and returns at once; a request of larger urgency runs first."""
        with self._changed:
            self._serial += 1
            self._newest[slot] = self._serial
            self._waiting[slot] = _Request(slot, urgency, self._serial, work)
            self._changed.notify_all()

    def drop(self, slot: str) -> None:
        """Removes the request of a slot, and cancels it if it is running."""
        with self._changed:
            self._serial += 1
            self._newest[slot] = self._serial
            self._waiting.pop(slot, None)

    def between(self) -> None:
        """Runs more urgent requests; to be called by running work.

        Raises:
            Superseded: The result of this work is no longer needed.
        """
        current = self._running[-1]
        while True:
            with self._changed:
                if self._closing or self._newest[current.slot] != current.serial:
                    raise Superseded
                request = self._pop(above=current.urgency)
            if request is None:
                return
            self._run(request)

    def close(self, seconds: float = 5.0) -> None:
        """Cancels the running work and ends the thread, waiting at most `seconds` for it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _pop(self, above: int | None = None) -> _Request | None:
        """Removes and returns the most urgent waiting request, the oldest of equals; needs the lock."""
        chosen = min(self._waiting.values(), key=lambda r: (-r.urgency, r.serial), default=None)
        if chosen is None or (above is not None and chosen.urgency <= above):
            return None
        return self._waiting.pop(chosen.slot)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                request = self._pop()
            assert request is not None
            self._run(request)

    def _run(self, request: _Request) -> None:
        self._running.append(request)
        self._report_change()
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
            self._on_failure(request.slot, "an internal error of the viewer; see the terminal")
        finally:
            self._running.pop()
            self._report_change()

    def _report_change(self) -> None:
        self._on_change(tuple(request.slot for request in self._running))


class Interruptible:
    """Wraps a model, or one of its networks, to call `Worker.between` before each evaluation."""

    _EVALUATED = ("implicit_network", "rendering_network", "sdf", "gradient")

    def __init__(self, network: Any, between: Callable[[], None]) -> None:
        self._network = network
        self._between = between

    def __call__(self, *inputs: Any) -> Any:
        """Evaluates it."""
        self._between()
        return self._network(*inputs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._network, name)
        return Interruptible(value, self._between) if name in self._EVALUATED else value
