"""The worker: newest request of a slot, urgency, failures."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from idr.errors import InputError
from idr.viewer.worker import Interruptible, Superseded, Worker

WAIT = 10.0


@pytest.fixture
def failures():
    return []


@pytest.fixture
def worker(failures):
    worker = Worker(lambda slot, text: failures.append((slot, text)), lambda slots: None)
    yield worker
    worker.close()


def finish(worker):
    """Waits until everything submitted so far is done."""
    done = threading.Event()
    worker.submit("last", done.set, urgency=-1)
    assert done.wait(WAIT)


def endless(worker, started, ended):
    """A work that goes on until it is superseded."""

    def work():
        started.set()
        try:
            while True:
                worker.between()
                time.sleep(0.001)
        except Superseded:
            ended.set()
            raise

    return work


def test_submit_returns_at_once_and_cancels_the_running_request(worker, failures):
    started, ended, seen = threading.Event(), threading.Event(), []
    worker.submit("surface", endless(worker, started, ended))
    assert started.wait(WAIT)
    for number in range(50):
        worker.submit("surface", lambda number=number: seen.append(number))
    finish(worker)
    assert ended.is_set() and seen[-1] == 49 and len(seen) < 50 and failures == []


def test_waiting_requests_of_a_slot_are_replaced(worker):
    hold, seen = threading.Event(), []
    worker.submit("other", lambda: hold.wait(WAIT), urgency=9)
    for number in range(5):
        worker.submit("surface", lambda number=number: seen.append(number))
    hold.set()
    finish(worker)
    assert seen == [4]


def test_urgent_requests_run_nested_in_others(worker):
    order, started, requested = [], threading.Event(), threading.Event()

    def mesh():
        order.append("mesh begins")
        started.set()
        assert requested.wait(WAIT)
        worker.between()
        order.append("mesh ends")

    worker.submit("surface", mesh, urgency=1)
    assert started.wait(WAIT)
    worker.submit("less", lambda: order.append("less"), urgency=0)
    worker.submit("view", lambda: order.append("view"), urgency=2)
    requested.set()
    finish(worker)
    assert order == ["mesh begins", "view", "mesh ends", "less"]


def test_dropped_work_is_canceled(worker):
    started, ended = threading.Event(), threading.Event()
    worker.submit("views", endless(worker, started, ended))
    assert started.wait(WAIT)
    worker.drop("views")
    assert ended.wait(WAIT)


def test_failures_are_reported_and_the_worker_continues(worker, failures, caplog):
    def mistaken():
        raise InputError("checkpoint 7 is damaged")

    def broken():
        raise KeyError("ours")

    worker.submit("a", mistaken)
    worker.submit("b", broken)
    finish(worker)
    assert failures == [
        ("a", "checkpoint 7 is damaged"),
        ("b", "an internal error of the viewer; see the terminal"),
    ]


def test_closing_cancels_the_running_work():
    worker = Worker(lambda slot, text: None, lambda slots: None)
    started, ended = threading.Event(), threading.Event()
    worker.submit("surface", endless(worker, started, ended))
    assert started.wait(WAIT)
    worker.close()
    assert ended.is_set()


def test_interruptible_network_equals_the_network_and_calls_back():
    class Field(torch.nn.Module):
        def sdf(self, x):
            return x.norm(dim=-1)

        def forward(self, x):
            return 2 * x

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.implicit_network = Field()
            self.radius = 3

        def forward(self, x):
            return self.implicit_network(x)

    calls = []
    model = Interruptible(Model(), lambda: calls.append(1))
    points = torch.ones(2, 3)
    assert model.radius == 3 and torch.equal(model(points), 2 * points) and len(calls) == 1
    assert torch.equal(model.implicit_network.sdf(points), points.norm(dim=-1)) and len(calls) == 2
    assert torch.equal(model.implicit_network(points), 2 * points) and len(calls) == 3
    assert not hasattr(model.implicit_network, "gradients")
